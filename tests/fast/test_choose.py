"""Number types by kind of work: which is chosen, what is kept of the measurement, and learning in each mixture."""

import itertools
import json
import math
import os

import numpy as np
import pytest
import torch

from reverie.config import build
from reverie.fast import choose, modes
from reverie.fast.choose import Piece, Timing, decide, measured, read, share
from reverie.fast.convs import FastConvDecoder, FastConvEncoder
from reverie.fast.dense import FastMLP
from reverie.fast.modes import pick_precision
from reverie.fast.products import KINDS, Types, said
from reverie.fast.scan import FastRSSM
from tests.fast.test_fast import agent_of, updates

CPU, F, H = torch.device("cpu"), torch.float32, torch.bfloat16
#: Wider than what is float32 without a question, and small.
WIDE = {"rnn_hidden_dim": 136, "compute.precision": "auto", "compute.fused": "auto"}


def timings(**ratios):
    """bfloat16's time in each kind; float32's is 1."""
    return {kind: Timing(kind, 1e9, 1.0, ratio) for kind, ratio in ratios.items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A processor with bfloat16, a cache folder of its own, and nothing remembered."""
    monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(modes, "has_bfloat16", lambda device: True)
    choose._known.cache_clear()
    yield tmp_path / "cache"
    choose._known.cache_clear()


@pytest.fixture
def measure(monkeypatch):
    """Instead of a measurement: a list of what it will find next; the last one stays."""
    found = [timings(convolutions=0.5, dense=0.5, loops=2.0)]
    calls = []

    def measure(parts, config, *, fused, at_length=False):
        calls.append(fused)
        return found[0] if len(found) == 1 else found.pop(0)

    monkeypatch.setattr(choose, "measure", measure)
    measure.found, measure.calls = found, calls
    return measure


# ------------------------------------------------------------------------------------------------------------ deciding


@pytest.mark.parametrize(
    ("ratios", "types"),
    [
        ({"convolutions": 0.5, "dense": 0.6, "loops": 0.7}, (H, H, H)),
        ({"convolutions": 1.7, "dense": 1.5, "loops": 1.3}, (F, F, F)),  # an Intel Xeon with avx512_bf16 and no AMX
        ({"convolutions": 0.5, "dense": 0.8, "loops": 1.2}, (H, H, F)),
        ({"convolutions": 0.98, "dense": 1.0, "loops": 0.96}, (F, F, H)),  # what is as quick may as well be exact
        ({"dense": 0.5, "loops": 1.2}, (F, H, F)),  # no images
        ({}, (F, F, F)),
    ],
)
def test_each_kind_is_computed_in_what_is_quicker(ratios, types):
    assert decide(timings(**ratios)) == Types(*types)


def test_never_slower_than_float32_beyond_what_was_measured():
    for ratios in itertools.product((0.3, 0.9, 0.99, 1.0, 1.5, 4.0), repeat=3):
        found = timings(**dict(zip(KINDS, ratios, strict=True)))
        least = min(share(found, Types(*types)) for types in itertools.product((F, H), repeat=3))
        assert share(found, decide(found)) <= min(1.0, 1.03 * least)


def test_the_share_counts_what_takes_long():
    found = {"convolutions": Timing("", 1e9, 3.0, 1.5), "dense": Timing("", 1e9, 1.0, 2.0)}
    assert share(found, Types.all(F)) == 1
    assert share(found, Types.all(H)) == pytest.approx(3.5 / 4)
    assert share(found, decide(found)) == pytest.approx(2.5 / 4)


def test_types_are_said_and_written():
    assert said(Types.all(H)) == "all in bfloat16"
    assert said(Types(H, H, F)) == "convolutions and dense in bfloat16, loops in float32"
    assert Types.from_dict(Types(H, F, H).to_dict()) == Types(H, F, H)
    assert (Types(F, F, H).lowest, Types.all(F).lowest) == (H, F)
    for odd in ({"convolutions": "float16", "dense": "float32", "loops": "float32"}, {}):
        with pytest.raises((ValueError, KeyError)):
            Types.from_dict(odd)


# ------------------------------------------------------------------------------------------------- when it is measured


def test_it_is_measured_once_in_a_process_and_once_on_a_machine(measure, own_cache):
    agents = [agent_of("demo", "fast", **WIDE) for _ in range(3)]
    assert len(measure.calls) == 1
    assert [agent.precision.types for agent in agents] == 3 * [Types(H, H, F)]
    assert agents[0].precision.why.startswith("0.67x of float32's time, measured on ")
    choose._known.cache_clear()  # another process
    measure.found[:] = [timings(convolutions=2.0)]
    assert agent_of("demo", "fast", **WIDE).precision == agents[0].precision
    assert len(measure.calls) == 1
    assert agent_of("demo", "fast", **WIDE, hidden_dim=24).precision.types == Types.all(F)  # other shapes
    assert len(measure.calls) == 2
    parts = agents[0].world_model, agents[0].actor
    assert measured(parts, agents[0].config, fused=measure.calls[0], again=True) == measure.found[0]
    assert len(list(own_cache.glob("choice-*.json"))) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"train.deterministic": True},
        {"compute.precision": "float32"},
        {"compute.precision": "bfloat16", "compute.fused": "off"},
        {"compute.mode": "reference"},
        {"rnn_hidden_dim": 128, "hidden_dim": 128},
    ],
    ids=str,
)
def test_nothing_is_measured_where_nothing_is_to_be_chosen(measure, settings):
    agent = agent_of("demo", "fast", **WIDE | settings)
    assert measure.calls == []
    low = settings.get("compute.precision") == "bfloat16" or "train.deterministic" in settings
    assert agent.precision.types == Types.all(H if low else F)


def test_without_bfloat16_nothing_is_measured(measure, monkeypatch):
    monkeypatch.setattr(modes, "has_bfloat16", lambda device: False)
    assert agent_of("demo", "fast", **WIDE).precision == (Types.all(F), "no units for bfloat16")
    assert measure.calls == []


def test_other_devices_and_modes_take_bfloat16_as_before(measure):
    config = build({"rnn_hidden_dim": 200})
    for mode, device in (("fast", "cuda"), ("graph", "cuda"), ("compile", "cpu")):
        assert pick_precision(config, mode, torch.device(device), ()).types == Types.all(H)
    assert measure.calls == []


def test_compiled_loops_that_are_asked_for_are_float32(measure):
    measure.found[:] = [timings(convolutions=0.5, dense=0.5, loops=0.5)]
    if modes._why_not_built():
        pytest.skip("no C compiler")
    agent = agent_of("demo", "fast", **WIDE | {"compute.fused": "on"})
    assert (agent.precision.types, agent.fused.on) == (Types(H, H, F), True)


# ------------------------------------------------------------------------------------------------------ what is kept


FAULTS = {
    "empty": "",
    "garbage": "\x00{{{",
    "a list": "[]",
    "too deep": "[" * 100_000,
    "another key": json.dumps({"key": "?", "kinds": {"dense": ["", 1, 1, 1]}}),
    "no kinds": json.dumps({"key": "KEY", "kinds": {}}),
    "an odd kind": json.dumps({"key": "KEY", "kinds": {"dense": ["", 1, 1, 1], "more": ["", 1, 1, 1]}}),
    "too few numbers": json.dumps({"key": "KEY", "kinds": {"dense": ["", 1, 1]}}),
    "a NaN": json.dumps({"key": "KEY", "kinds": {"dense": ["", 1, math.nan, 1]}}),
    "below 0": json.dumps({"key": "KEY", "kinds": {"dense": ["", 1, -1, 1]}}),
    "a word": json.dumps({"key": "KEY", "kinds": {"dense": ["", 1, "quick", 1]}}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_measured_again(measure, own_cache, fault):
    first = agent_of("demo", "fast", **WIDE)
    (path,) = own_cache.glob("choice-*.json")
    key = json.loads(path.read_text())["key"]
    whole = path.read_text()
    path.write_text(FAULTS[fault].replace('"KEY"', json.dumps(key)))
    assert read(path, key) is None
    choose._known.cache_clear()
    assert agent_of("demo", "fast", **WIDE).precision == first.precision
    assert (len(measure.calls), path.read_text()) == (2, whole)


def test_a_file_that_another_user_may_have_written_is_not_believed(measure, own_cache):
    agent_of("demo", "fast", **WIDE)
    (path,) = own_cache.glob("choice-*.json")
    path.chmod(0o666)
    choose._known.cache_clear()
    agent_of("demo", "fast", **WIDE)
    assert len(measure.calls) == 2
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may give a file away")
def test_a_file_of_another_user_is_not_believed(measure, own_cache):
    agent_of("demo", "fast", **WIDE)
    (path,) = own_cache.glob("choice-*.json")
    os.chown(path, 12345, 12345)
    choose._known.cache_clear()
    agent_of("demo", "fast", **WIDE)
    assert len(measure.calls) == 2


def test_without_a_folder_it_is_measured_in_each_process(measure, own_cache, monkeypatch):
    own_cache.write_text("a file in its place")
    agent_of("demo", "fast", **WIDE)
    choose._known.cache_clear()
    assert agent_of("demo", "fast", **WIDE).precision.types == Types(H, H, F)
    assert len(measure.calls) == 2
    monkeypatch.delenv("REVERIE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("reverie.fast.fused_build.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert choose._path("key") is None


# ------------------------------------------------------------------------------------------------------- measuring


@pytest.mark.parametrize(
    "settings", [{}, {"recurrent_cell": "gru"}, {"latents": "gaussian"}, {"unimix": 0.01}], ids=str
)
def test_a_measurement_changes_nothing(settings, monkeypatch):
    agent = agent_of("dreamerv2", "fast", **WIDE | {"compute.precision": "float32"} | settings)
    before = {key: value.clone() for key, value in agent.state_dict().items()}
    random, threads = torch.get_rng_state(), []
    race = choose.race
    monkeypatch.setattr(
        choose, "race", lambda forms, **how: [threads.append(torch.get_num_threads()), race(forms, **how)][1]
    )
    torch.set_num_threads(2)
    found = choose.measure((agent.world_model, agent.actor), agent.config, fused=agent.fused.on)
    assert torch.equal(torch.get_rng_state(), random)
    assert (torch.get_num_threads(), set(threads)) == (2, {1})  # the processor's time of one counts
    torch.set_num_threads(1)
    assert all(torch.equal(value, before[key]) for key, value in agent.state_dict().items())
    assert all(weight.grad is None for weight in agent.parameters())
    assert list(found) == list(KINDS)
    assert all(math.isfinite(number) and number > 0 for each in found.values() for number in each[1:])
    assert {part.__dict__.get("product_dtype", F) for part in agent.modules()} == {F}


def test_what_is_quicker_wins_a_race():
    x = torch.ones(300, 300)
    slow, quick = choose.race([lambda: [x @ x for _ in range(20)], lambda: x @ x])
    assert 3 * quick < slow


def test_a_clear_race_ends_at_once(monkeypatch):
    monkeypatch.setattr(choose, "SECONDS", math.inf)
    x, runs = torch.ones(300, 300), [0, 0]

    def run(at, times):
        runs[at] += 1
        return [x @ x for _ in range(times)]

    forms = [lambda: run(0, 20), lambda: run(1, 1)]
    choose.race(forms, clear=1.5)
    assert runs == [2, 2]  # one that warms up, one that counts
    choose.race(forms)
    assert runs == [2 + 1 + choose.ROUNDS] * 2


def pairs_of(*about):
    """(work, seconds in float32, bfloat16 / float32) of pieces -> as `time_kind` takes them; the larger first."""
    about = sorted(about, reverse=True)
    both = zip(*about, strict=True)
    pieces = [Piece("dense", str(at), 1.0, work, lambda: None) for at, work in enumerate(next(both))]
    took = [[seconds, seconds * ratio] for seconds, ratio in zip(*both, strict=True)]
    return [(piece, piece) for piece in pieces], took


def raced(monkeypatch, took):
    """Let pieces take these seconds in turn -> what each race was told."""
    told = []

    def race(forms, *, clear):
        if len(told) == len(took) or (told and told[-1] != clear):
            told.clear()  # once more, at length
        told.append(clear)
        return took[len(told) - 1]

    monkeypatch.setattr(choose, "race", race)
    return told


def test_what_is_left_out_never_changes_the_answer(monkeypatch):
    """However unlike the rest it is, within what `SLOWEST` and `ODDEST` say: small pieces may all be so."""
    rng, ended_early = np.random.default_rng(0), 0
    for _ in range(1000):
        work = rng.exponential(1.0, rng.integers(1, 12)) + 0.01
        large, middle = work > np.median(work), rng.uniform(0.4, 2.5)
        ratios = np.where(large, middle, np.clip(middle * rng.choice([0.3, 1.0, 3.0]), 0.5, 2.0))
        seconds = work * np.where(large, 1.0, rng.choice([0.5, 1.0, 2.0]))
        pairs, took = pairs_of(*zip(work, seconds, ratios, strict=True))
        told = raced(monkeypatch, took)
        short = choose.time_kind(pairs, at_length=False)
        ended_early += len(told) < len(pairs)
        raced(monkeypatch, took)
        whole = choose.time_kind(pairs, at_length=True)
        assert decide({"dense": short}) == decide({"dense": whole})
        assert short.flops == pytest.approx(work.sum())
        assert whole.float32 == pytest.approx(seconds.sum())
    assert ended_early > 300


def test_a_clear_answer_needs_the_large_pieces_and_a_close_one_all_of_them_at_length(monkeypatch):
    works = (50, 30, 10, 5, 3, 2)
    for ratio, count in ((0.6, 3), (1.8, 2)):
        pairs, took = pairs_of(*((work, work, ratio) for work in works))
        told = raced(monkeypatch, took)
        found = choose.time_kind(pairs, at_length=False)
        assert told == [choose.CLEAR] * count
        assert (found.float32, found.bfloat16) == pytest.approx((100, 100 * ratio))  # of the whole kind
    pairs, took = pairs_of(*((work, work, 0.95) for work in works))
    told = raced(monkeypatch, took)
    assert choose.time_kind(pairs, at_length=False).bfloat16 == pytest.approx(95)
    assert told == [math.inf] * 6


# ------------------------------------------------------------------------------------------------------------ computing


@pytest.mark.parametrize("types", list(itertools.product((F, H), repeat=3)))
def test_an_agent_learns_in_every_mixture(measure, types, monkeypatch):
    """With everything told to be worth bfloat16: these networks are small."""
    monkeypatch.setattr("reverie.fast.products.WORTH_HALVING", 0)
    measure.found[:] = [timings(**{kind: 0.5 if dtype == H else 2.0 for kind, dtype in zip(KINDS, types, strict=True)})]
    agent = agent_of("demo", "fast", **WIDE)
    exact = agent_of("demo", "reference", **WIDE)
    assert agent.precision.types == types
    assert agent.dtype == (H if H in types else F)
    inner = {id(part) for part in agent.world_model.rssm.modules()}
    for part in agent.modules():
        if isinstance(part, FastConvEncoder | FastConvDecoder):
            assert part.product_dtype == types[0]
        elif isinstance(part, FastMLP) and id(part) not in inner:
            assert part.product_dtype == types[1]
            assert part.runs_fused == (agent.fused.on and types[1] == F)
        elif isinstance(part, FastRSSM | FastMLP):
            assert part.product_dtype == types[2]
            assert part.runs_fused == (agent.fused.on and types[2] == F)
    ours, theirs = updates(agent, 2), updates(exact, 2)
    assert ours[0][0] == pytest.approx(theirs[0][0], rel=0.1, abs=0.1)
    assert all(math.isfinite(value) for value in ours[1][0].values())


def test_types_may_change_between_updates(measure):
    """What was prepared for one type is not used for another."""
    measure.found[:] = [timings(convolutions=0.5, dense=0.5, loops=0.5)]
    agent, exact = agent_of("demo", "fast", **WIDE), agent_of("demo", "fast", **WIDE | {"compute.precision": "float32"})
    exact.load_state_dict(agent.state_dict())
    states = {name: value.clone() for name, value in agent.state_dict().items()}
    updates(agent, 1)
    agent.load_state_dict(states)
    agent.use(modes.Precision(Types.all(F), ""))
    left, right = updates(agent, 1)[0][0], updates(exact, 1)[0][0]
    assert {k: left[k] for k in left if k.startswith("world_model/")} == {
        k: right[k] for k in right if k.startswith("world_model/")
    }


# ------------------------------------------------------------------------------------------------------------- keeping


def test_an_agent_keeps_the_types_of_a_run(measure):
    agent = agent_of("demo", "fast", **WIDE)
    agent.keep_types(Types(H, H, F))
    assert (agent.precision.types, agent.kept_types) == (Types(H, H, F), "")
    agent.keep_types(Types(F, H, H))
    assert agent.precision.types == Types(F, H, H)
    assert agent.notes == [
        "products stay as the run began, convolutions in float32, dense and loops in bfloat16; this machine would "
        "choose convolutions and dense in bfloat16, loops in float32. compute.precision sets another type"
    ]
    assert not agent.world_model.rssm.runs_fused
    agent = agent_of("demo", "fast", **WIDE)
    agent.keep_types(None)  # it began before types were measured
    assert agent.precision.types == Types.all(H)
    agent = agent_of("demo", "fast", **WIDE | {"compute.precision": "float32"})  # whoever sets it means it
    agent.keep_types(Types.all(H))
    assert (agent.precision.types, agent.kept_types) == (Types.all(F), "")
