"""Replay: which windows can be drawn, how often, and what survives a save."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from reverie.data.replay import Batch, Replay
from reverie.data.replay_log import ReplayLog
from reverie.errors import UserError

SHAPES = {"id": ((2,), np.dtype(np.float32)), "image": ((2, 2, 1), np.dtype(np.uint8))}
QUICK = settings(max_examples=60, deadline=None)


def make(capacity=40, streams=2, **options):
    return Replay(SHAPES, 1, capacity=capacity, streams=streams, **options)


def row(replay, streams, *, reward=0.0, last=False):
    """Rows that carry their (stream, step) and obey the contract; a step is first if the one before was last."""
    steps = replay.counts[streams]
    before = replay.data["is_last"][streams, (steps - 1) % replay.size]
    first = (steps == 0) | before
    count = len(streams)
    return {
        "obs/id": np.stack([streams, steps], -1).astype(np.float32),
        "obs/image": np.broadcast_to((steps % 251).astype(np.uint8)[:, None, None, None], (count, 2, 2, 1)),
        "action": np.where(first[:, None], np.nan, steps[:, None]).astype(np.float32),
        "reward": np.where(first, 0, reward).astype(np.float32),
        "is_first": first,
        "is_last": np.full(count, last),
        "is_terminal": np.full(count, last),
    }


def fill(replay, steps, streams=None, **options):
    """Add `steps` steps to the given streams (all by default)."""
    ids = np.arange(len(replay.counts)) if streams is None else np.asarray(streams)
    for _ in range(steps):
        replay.add(row(replay, ids, **options), ids)


def ids(batch):
    """(B, T) streams and steps of a batch."""
    return batch.obs["id"][..., 0].astype(int), batch.obs["id"][..., 1].astype(int)


def assert_equal(left, right):
    for a, b in zip([*left.obs.values(), *left[1:]], [*right.obs.values(), *right[1:]], strict=True):
        np.testing.assert_array_equal(a, b)


def every_window(replay, seq_len):
    """{(stream, first step)} that are valid by definition: inside what the stream still holds."""
    return {
        (stream, start)
        for stream, count in enumerate(replay.counts)
        for start in range(max(0, count - replay.size), count - seq_len + 1)
    }


# ------------------------------------------------------------------------------------------------- windows

uneven = st.lists(st.tuples(st.sets(st.integers(0, 2), min_size=1), st.integers(1, 12)), min_size=1, max_size=8)


@QUICK
@given(added=uneven, size=st.integers(4, 15), seq_len=st.integers(1, 6), prioritize=st.sampled_from(["none", "ends"]))
def test_windows_are_consecutive_steps_of_one_stream(added, size, seq_len, prioritize):
    replay = make(capacity=3 * size, streams=3, prioritize=prioritize, priority_share=0.5)
    for number, (streams, steps) in enumerate(added):
        fill(replay, steps, sorted(streams), last=number % 2 == 0)
    if not replay.can_sample(seq_len):
        with pytest.raises(ValueError, match=f"no stream has {seq_len} steps"):
            replay.sample(4, seq_len)
        return
    stream, step = ids(replay.sample(64, seq_len))
    assert (stream == stream[:, :1]).all()
    assert (step == step[:, :1] + np.arange(seq_len)).all()  # a jump would be the ring's write head
    assert {(int(s), int(t)) for s, t in zip(stream[:, 0], step[:, 0], strict=True)} <= every_window(replay, seq_len)


@QUICK
@given(added=uneven, size=st.integers(4, 10), seq_len=st.integers(1, 4))
def test_every_valid_window_and_every_stored_step_is_reachable(added, size, seq_len):
    replay = make(capacity=3 * size, streams=3)
    for streams, steps in added:
        fill(replay, steps, sorted(streams))
    windows = every_window(replay, seq_len)
    if not windows:
        return
    stream, step = ids(replay.sample(60 * len(windows), seq_len))  # a window is missed with p < 1e-25
    assert {(int(s), int(t)) for s, t in zip(stream[:, 0], step[:, 0], strict=True)} == windows
    stored = {
        (s, t)
        for s, count in enumerate(replay.counts)
        if count >= seq_len
        for t in range(max(0, count - replay.size), count)
    }
    assert {(int(s), int(t)) for s, t in zip(stream.flat, step.flat, strict=True)} == stored


@pytest.mark.parametrize("per_stream", [(20, 20), (8, 35), (5, 1)])
def test_every_valid_start_is_equally_likely(per_stream):
    replay = make(capacity=40, streams=2, seed=3)
    for stream, steps in enumerate(per_stream):
        fill(replay, steps, [stream])
    windows, draws = every_window(replay, 4), 20_000
    stream, step = ids(replay.sample(draws, 4))
    counts = Counter(zip(stream[:, 0].tolist(), step[:, 0].tolist(), strict=True))
    expected = draws / len(windows)
    chi_square = sum((counts[w] - expected) ** 2 / expected for w in windows)
    degrees = len(windows) - 1
    assert abs(chi_square - degrees) < 5 * (2 * max(1, degrees)) ** 0.5  # mean and deviation of chi-square


def test_a_full_ring_forgets_exactly_its_oldest_step():
    replay = make(capacity=10, streams=1)
    fill(replay, 10)
    assert ids(replay.window(np.array([0]), np.array([0]), 10))[1].tolist() == [list(range(10))]
    fill(replay, 1)
    assert ids(replay.window(np.array([0]), np.array([0]), 10))[1].tolist() == [list(range(1, 11))]
    assert len(replay) == 10


def test_all_arrays_of_a_window_belong_to_the_same_steps():
    replay = make()
    fill(replay, 33, reward=np.arange(2) + 1)
    batch = replay.sample(32, 5)
    stream, step = ids(batch)
    np.testing.assert_array_equal(batch.obs["image"][..., 0, 0, 0], step % 251)
    np.testing.assert_array_equal(batch.action[..., 0][~batch.is_first], step[~batch.is_first])
    np.testing.assert_array_equal(batch.reward, np.where(batch.is_first, 0, stream + 1))


def test_shapes_and_dtypes_of_a_batch():
    replay = make()
    fill(replay, 12)
    batch = replay.sample(7, 5)
    assert batch.obs["image"].shape == (7, 5, 2, 2, 1)
    assert batch.obs["image"].dtype == np.uint8
    assert batch.action.shape == (7, 5, 1)
    assert {key: (getattr(batch, key).shape, getattr(batch, key).dtype.str) for key in Batch._fields[2:-1]} == {
        "reward": ((7, 5), "<f4"),
        "is_first": ((7, 5), "|b1"),
        "is_last": ((7, 5), "|b1"),
        "is_terminal": ((7, 5), "|b1"),
    }


def test_a_batch_is_a_copy():
    replay = make(capacity=10, streams=1)
    fill(replay, 10)
    batch = replay.sample(4, 3)
    before = batch.obs["id"].copy()
    fill(replay, 10)
    np.testing.assert_array_equal(batch.obs["id"], before)


def test_same_seed_same_batches_and_another_seed_others():
    draws = []
    for seed in (5, 5, 6):
        replay = make(seed=seed)
        fill(replay, 18)
        draws.append(ids(replay.sample(50, 3)))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


@pytest.mark.parametrize(("steps", "seq_len", "expected"), [(3, 4, False), (4, 4, True), (0, 1, False)])
def test_can_sample_needs_one_stream_with_a_whole_window(steps, seq_len, expected):
    replay = make(streams=3, capacity=60)
    fill(replay, steps, [1])
    assert replay.can_sample(seq_len) is expected


def test_too_short_a_stream_is_an_error_with_both_lengths():
    replay = make()
    fill(replay, 3)
    with pytest.raises(ValueError, match="no stream has 9 steps yet, the longest has 3"):
        replay.sample(1, 9)


def test_rows_with_missing_or_unknown_keys_are_refused():
    replay = make()
    rows = row(replay, np.arange(2))
    with pytest.raises(ValueError, match="a step has"):
        replay.add({key: value for key, value in rows.items() if key != "reward"})
    with pytest.raises(ValueError, match="surprise"):
        replay.add(rows | {"surprise": rows["reward"]})
    assert len(replay) == 0


def test_contents_are_the_stored_steps_and_nothing_else():
    replay = make(capacity=20, streams=2)
    fill(replay, 4, [0])
    fill(replay, 13, [1])
    found = sorted(map(tuple, replay.contents()["obs/id"].astype(int).tolist()))
    assert found == [(0, t) for t in range(4)] + [(1, t) for t in range(3, 13)]


def test_nbytes_counts_the_full_ring():
    assert make(capacity=40, streams=2).nbytes() == 40 * (2 * 4 + 4 + 4 + 4 + 3)


# ---------------------------------------------------------------------------------------------- priorities


def with_marks(prioritize, share, *, marks=(30,), length=60, capacity=60, seed=0):
    replay = make(capacity=capacity, streams=1, prioritize=prioritize, priority_share=share, seed=seed)
    for step in range(length):
        marked = step in marks
        fill(replay, 1, reward=2.0 * marked * (prioritize == "rewards"), last=marked and prioritize == "ends")
    return replay


@pytest.mark.parametrize("prioritize", ["ends", "rewards"])
def test_a_mark_is_uniform_inside_the_windows_that_are_drawn_for_it(prioritize):
    replay = with_marks(prioritize, 1.0)
    places = 30 - ids(replay.sample(8000, 10))[1][:, 0]
    counts = np.bincount(places, minlength=10)
    assert len(counts) == 10
    assert abs(((counts - 800) ** 2 / 800).sum() - 9) < 5 * 18**0.5


@pytest.mark.parametrize("step", [0, 2, 57, 59])
def test_a_mark_near_the_edge_is_still_inside_its_windows(step):
    replay = with_marks("ends", 1.0, marks=(step,))
    steps = ids(replay.sample(500, 10))[1]
    assert ((steps == step).sum(1) == 1).all()


def test_marks_keep_their_place_when_the_ring_wraps():
    replay = with_marks("ends", 1.0, marks=(7, 70), length=100, capacity=60)
    assert ((ids(replay.sample(500, 10))[1] == 70).sum(1) == 1).all()


def test_new_marks_are_seen_at_once():
    replay = with_marks("rewards", 1.0, marks=())
    replay.sample(1, 10)
    fill(replay, 1, reward=1.0)
    assert ((ids(replay.sample(100, 10))[1] == 60).sum(1) == 1).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75])
def test_the_share_of_marked_windows_is_as_asked(share):
    replay = with_marks("ends", share, seed=1)
    covered = (ids(replay.sample(10_000, 10))[1] == 30).any(1).mean()
    by_chance = 10 / 51
    assert covered == pytest.approx(share + (1 - share) * by_chance, abs=0.02)


@pytest.mark.parametrize("prioritize", ["ends", "rewards"])
def test_without_marks_the_draw_is_uniform(prioritize):
    replay = with_marks(prioritize, 1.0, marks=())
    counts = np.bincount(ids(replay.sample(10_200, 10))[1][:, 0], minlength=51)
    assert abs(((counts - 200) ** 2 / 200).sum() - 50) < 5 * 10


def test_marks_in_a_stream_that_is_too_short_are_left_out():
    replay = make(streams=2, capacity=60, prioritize="ends", priority_share=1.0)
    fill(replay, 3, [0], last=True)
    fill(replay, 20, [1])
    assert (ids(replay.sample(200, 10))[0] == 1).all()


# ------------------------------------------------------------------------------------------------- on disk


def test_disk_backed_steps_equal_those_in_memory(tmp_path):
    memory, disk = make(seed=2), make(seed=2, directory=tmp_path / "ring")
    for replay in (memory, disk):
        fill(replay, 27, reward=1.0)
    assert_equal(memory.sample(50, 6), disk.sample(50, 6))
    assert sorted(p.name for p in (tmp_path / "ring").iterdir()) == sorted(
        f"ring-{key.replace('/', '-')}.npy" for key in memory.data
    )


def everything(replay):
    """All stored windows of length 1, oldest first, per stream."""
    return [
        replay.window(np.array([s]), np.array([0]), int(min(c, replay.size))) for s, c in enumerate(replay.counts) if c
    ]


def assert_same_steps(left, right):
    np.testing.assert_array_equal(left.counts, right.counts)
    for a, b in zip(everything(left), everything(right), strict=True):
        assert_equal(a, b)


@QUICK
@given(chunks=st.lists(uneven, min_size=1, max_size=4), size=st.integers(3, 12))
def test_save_and_load_are_exact(tmp_path_factory, chunks, size):
    directory = tmp_path_factory.mktemp("log")
    replay = make(capacity=3 * size, streams=3)
    log = ReplayLog(replay, directory)
    for chunk in chunks:
        for streams, steps in chunk:
            fill(replay, steps, sorted(streams), reward=1.5, last=steps % 3 == 0)
        log.save()
    other = make(capacity=3 * size, streams=3)
    ReplayLog(other, directory).load(replay.counts)
    assert_same_steps(replay, other)


@QUICK
@given(before=uneven, after=uneven, again=uneven, size=st.integers(3, 12))
def test_an_older_checkpoint_loads_as_it_was_and_can_be_continued(tmp_path_factory, before, after, again, size):
    directory = tmp_path_factory.mktemp("log")
    replay = make(capacity=3 * size, streams=3)
    log = ReplayLog(replay, directory)

    def play(chunk, target):
        for streams, steps in chunk:
            fill(target, steps, sorted(streams), reward=2.0)

    play(before, replay)
    log.save()
    log.prune(replay.counts)  # this is the oldest checkpoint that is kept
    old = make(capacity=3 * size, streams=3)
    play(before, old)
    play(after, replay)
    log.save()
    log.prune(old.counts)

    back = make(capacity=3 * size, streams=3)
    log = ReplayLog(back, directory)
    log.load(old.counts)
    assert_same_steps(back, old)
    play(again, back)
    play(again, old)
    log.save()
    last = make(capacity=3 * size, streams=3)
    ReplayLog(last, directory).load(old.counts)
    assert_same_steps(last, old)


def test_prune_keeps_what_is_needed_and_drops_the_rest(tmp_path):
    replay = make(capacity=20, streams=2)
    log = ReplayLog(replay, tmp_path)
    for _ in range(6):
        fill(replay, 5)
        log.save()
    log.prune(replay.counts)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2  # ten steps per stream in files of five
    other = make(capacity=20, streams=2)
    ReplayLog(other, tmp_path).load(replay.counts)
    assert_same_steps(replay, other)


def test_what_is_new_may_be_larger_than_other_files(tmp_path):
    """Images between two checkpoints are many megabytes; limits of size are for files that come from elsewhere."""
    replay = Replay({"image": ((256, 256, 3), np.dtype(np.uint8))}, 2, capacity=100, streams=1, seed=0)
    image, no = np.zeros((1, 256, 256, 3), np.uint8), np.zeros(1, bool)
    for _ in range(100):
        step = {"obs/image": image, "action": np.zeros((1, 2), np.float32), "reward": np.zeros(1, np.float32)}
        replay.add(step | {"is_first": no, "is_last": no, "is_terminal": no})
    ReplayLog(replay, tmp_path).save()
    assert [path.stat().st_size > 2**24 for path in tmp_path.iterdir()] == [True]


def test_a_save_without_news_writes_nothing(tmp_path):
    replay = make()
    log = ReplayLog(replay, tmp_path)
    log.save()
    assert not list(tmp_path.glob("steps-*"))
    fill(replay, 5)
    log.save()
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    log.save()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_only_new_steps_are_appended(tmp_path):
    replay = make(capacity=40, streams=2)
    log = ReplayLog(replay, tmp_path)
    fill(replay, 5)
    log.save()
    fill(replay, 3)
    log.save()
    assert [p.suffix for p in tmp_path.iterdir()] == [".safetensors"] * 2
    meta = [safe_open(p, "numpy").metadata() for p in sorted(tmp_path.iterdir())]
    assert [(m["first"], m["last"]) for m in meta] == [("[0, 0]", "[5, 5]"), ("[5, 5]", "[8, 8]")]


def test_a_missing_log_file_is_noticed(tmp_path):
    replay = make(capacity=40, streams=2)
    log = ReplayLog(replay, tmp_path)
    for _ in range(3):
        fill(replay, 5)
        log.save()
    sorted(tmp_path.glob("steps-*"))[1].unlink()
    with pytest.raises(UserError, match="ends at step 10 of 30"):
        ReplayLog(make(capacity=40, streams=2), tmp_path).load(replay.counts)


def test_a_half_written_log_file_is_ignored(tmp_path):
    replay = make()
    log = ReplayLog(replay, tmp_path)
    fill(replay, 6)
    log.save()
    (tmp_path / "steps-000000000099.tmp").write_bytes(b"half")
    other = make()
    ReplayLog(other, tmp_path).load(replay.counts)
    assert_same_steps(replay, other)


# ---------------------------------------------------------------------------------------------- check_valid


def test_check_valid_accepts_what_the_contract_allows():
    replay = make(capacity=30, streams=2)
    for step in range(50):
        fill(replay, 1, reward=1.0, last=step % 7 == 3)
        replay.check_valid()


@pytest.mark.parametrize(
    ("key", "place", "value", "message"),
    [
        ("action", 4, np.nan, "NaN exactly where is_first"),
        ("action", 0, 1.0, "NaN exactly where is_first"),
        ("reward", 0, 1.0, "reward of a first step"),
        ("is_last", 4, True, "followed by a first"),
        ("is_terminal", 4, True, "terminal step must be a last"),
    ],
)
def test_check_valid_finds_each_violation(key, place, value, message):
    replay = make(capacity=40, streams=2)
    fill(replay, 10)
    replay.check_valid()
    replay.data[key][1, place] = value
    with pytest.raises(ValueError, match=message):
        replay.check_valid()
