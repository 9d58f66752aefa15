"""Files that are not what was written: noticed, told in a sentence, and never harmful."""

import contextlib
import json
import pickle
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import counting

import reverie
from reverie import UserError, checkpoint
from reverie.config import load_file
from reverie.files import Damaged, check, fingerprint, manifest_of, read_json
from reverie.run.logger import read_lines

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with two checkpoints."""
    from reverie.config.presets import load_preset
    from reverie.run.loop import Run

    directory = tmp_path_factory.mktemp("whole") / "run"
    sizes = {"cnn_depth": 1, "rnn_hidden_dim": 4, "hidden_dim": 4, "num_categoricals": 2, "num_categories": 3}
    quick = {"env.id": "custom:toy", "tensorboard": False, "video": False}
    for steps in (60, 120):
        Run(load_preset("debug", quick | sizes | {"env_steps": steps}), directory, counting).train()
    assert len(checkpoint.checkpoints(directory)) == 2
    return directory


def again(directory):
    """Go on with a run, for a little. -> the Run."""
    from reverie.run.loop import Run

    run = Run(load_file(directory / "config.yaml"), directory, counting)
    try:
        run.update()
    finally:
        run.close()
    return run


# ----------------------------------------------------------------------------------------------------------- corruption


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


def zero(path, rng):
    data = bytearray(path.read_bytes())
    at, length = rng.randrange(len(data)), rng.randint(1, 64)
    block = bytes(len(data[at : at + length]))
    data[at : at + length] = (
        bytes(255 - b for b in data[at : at + length]) if data[at : at + length] == block else block
    )
    path.write_bytes(data)


def append(path, rng):
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 64)))


def delete(path, rng):
    path.unlink()


def empty(path, rng):
    path.write_bytes(b"")


KINDS = [flip, truncate, zero, append, delete, empty]


def corrupt(directory, seed):
    """One fault in one file of the newest checkpoint or of the replay's log. -> what was done."""
    rng = random.Random(seed)
    newest = checkpoint.checkpoints(directory)[-1]
    files = sorted([*newest.iterdir(), *(directory / "replay").glob("steps-*")])
    path, kind = rng.choice(files), rng.choice(KINDS)
    kind(path, rng)
    return f"{kind.__name__} {path.name if path.parent == newest else 'replay'}"


def outcome(directory):
    """ "before it": the earlier checkpoint was used, and told; "refused": told. Anything else is a fault."""
    newest = checkpoint.step_directories(directory)[-1:]  # also without its state.json: that may be what was deleted
    try:
        run = again(directory)
    except UserError as error:
        return "refused" if error.message else "refused without a word"
    assert run.state.resumed
    if run.state.notes and newest and run.clock.env_steps < int(newest[0].name.split("-")[1]):
        return "before it"
    return "ACCEPTED"


def after_corruption(whole, tmp_path, seed):
    directory = tmp_path / str(seed)
    shutil.copytree(whole, directory)
    done = corrupt(directory, seed)
    result = outcome(directory)
    shutil.rmtree(directory)
    return done, result


@pytest.mark.parametrize("seed", range(30))
def test_no_corruption_is_accepted_silently(whole, tmp_path, seed):
    done, result = after_corruption(whole, tmp_path, seed)
    assert result in ("before it", "refused"), done


@pytest.mark.slow
def test_two_hundred_corruptions(whole, tmp_path, capsys):
    table = {}
    for seed in range(1000, 1200):
        done, result = after_corruption(whole, tmp_path, seed)
        table[done, result] = table.get((done, result), 0) + 1
    with capsys.disabled():
        for (done, result), count in sorted(table.items()):
            print(f"{count:4}  {done:32} {result}")
    assert not [key for key in table if key[1] == "ACCEPTED"]


def test_a_whole_run_goes_on_without_a_note(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    run = again(tmp_path / "run")
    assert run.state.notes == []
    assert run.clock.env_steps >= 120


def test_what_is_damaged_is_set_aside_and_the_run_goes_on(whole, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    newest = checkpoint.checkpoints(directory)[-1]
    (newest / "weights.safetensors").write_bytes(b"torn")
    run = again(directory)
    assert "weights.safetensors is damaged" in run.state.notes[0]
    assert (directory / "checkpoints" / f"damaged-{newest.name}").is_dir()
    assert again(directory).state.notes == []


def test_where_the_replay_is_damaged_the_agent_is_not_lost(whole, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    first = sorted((directory / "replay").iterdir())[0]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(UserError) as told:
        again(directory)
    path = re.search(r"reverie.load\('(.*)'\)", told.value.hint)[1]
    assert path == str(checkpoint.checkpoints(directory)[-1])
    reverie.load(path)
    shutil.rmtree(directory / "checkpoints" / "best", ignore_errors=True)
    for found in checkpoint.checkpoints(directory):
        (found / "config.yaml").unlink()
    with pytest.raises(UserError) as told:
        again(directory)
    assert told.value.hint == "Start another --run."


def test_playing_a_run_whose_newest_checkpoint_is_damaged_uses_the_one_before(whole, tmp_path, capsys):
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    before, newest = checkpoint.checkpoints(directory)
    (newest / "state.json").write_text("{")
    assert checkpoint.find_agent(directory) == before
    assert "state.json is damaged" in capsys.readouterr().err
    reverie.load_player(directory)


# -------------------------------------------------------------------------------------------------------- older formats


@pytest.mark.parametrize("form", [1, 2, 3])
def test_runs_of_older_formats_go_on(tmp_path, form):
    from reverie.run.loop import Run

    directory = tmp_path / "run"
    shutil.copytree(DATA / f"run-format{form}", directory)
    config = load_file(directory / "config.yaml")
    player = reverie.load_player(directory)
    assert int(player(np.zeros(4, np.float32))) in (0, 1)
    run = Run(config, directory)
    assert run.state.resumed
    assert run.clock.updates == 3
    run.update()
    run.save()
    run.close()
    newest = checkpoint.checkpoints(directory)[-1]
    checkpoint.verify(newest)
    assert read_json(newest / "state.json")["format"] == checkpoint.FORMAT


# -------------------------------------------------------------------------------------------------------------- hostile


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def rewritten(whole, tmp_path, name, content):
    """A saved agent in which one file says something else, its manifest in order: whoever attacks can do that too."""
    path = tmp_path / "agent"
    shutil.copytree(checkpoint.checkpoints(whole)[-1], path)
    write = (path / name).write_bytes if isinstance(content, bytes) else (path / name).write_text
    write(content)
    (path / "manifest.json").write_text(manifest_of(path))
    return path


def refused(path):
    with pytest.raises(UserError):
        reverie.load_player(path)
    with pytest.raises(UserError):
        reverie.load(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "spec.json", "config.yaml"])
def test_a_pickle_is_not_unpickled(whole, tmp_path, name):
    path = rewritten(whole, tmp_path, name, pickle.dumps(Bomb(tmp_path / "harm")))
    refused(path)
    assert not (tmp_path / "harm").exists()


def test_torch_pickles_are_not_either(whole, tmp_path):
    torch.save({"actor": Bomb(tmp_path / "harm")}, tmp_path / "x.pt")
    refused(rewritten(whole, tmp_path, "weights.safetensors", (tmp_path / "x.pt").read_bytes()))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "text",
    [
        '!!python/object/apply:os.system ["touch harm"]',
        'env: !!python/object/apply:os.system ["touch harm"]',
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]",
        "[" * 5000,
        "model: {hidden_dim: 1e400}",
        "\x00\x01",
        "- 1",
        "model: 3",
    ],
    ids=["tag", "inner-tag", "aliases", "deep", "infinite", "binary", "list", "number"],
)
def test_hostile_configurations(whole, tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(rewritten(whole, tmp_path, "config.yaml", text))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"obs": {"a": {"shape": [1000000, 1000000]}}}', "[]", '{"format": 3}']
)
def test_hostile_descriptions(whole, tmp_path, text):
    refused(rewritten(whole, tmp_path, "spec.json", text))


@pytest.mark.parametrize(
    "changes",
    [{"starts": [10**30]}, {"starts": [-(2**63)]}, {"starts": [2**31 - 1], "dtype": "int32"}, {"starts": [0.5]},
     {"dtype": "datetime64[s]"}, {"dtype": "object"}, {"choices": [10**9]}, {"low": [10**400], "high": [10**400]}],
    ids=lambda changes: "-".join(changes),
)  # fmt: skip
def test_actions_that_no_type_can_hold(whole, tmp_path, changes):
    spec = json.loads((checkpoint.checkpoints(whole)[-1] / "spec.json").read_text())
    spec["action"]["parts"][0] |= changes
    refused(rewritten(whole, tmp_path, "spec.json", json.dumps(spec)))


@pytest.mark.parametrize("changes", [{"frames": 10**30}, {"factor": 10**400}], ids=["frames", "factor"])
def test_observations_that_no_type_can_hold(whole, tmp_path, changes):
    spec = json.loads((checkpoint.checkpoints(whole)[-1] / "spec.json").read_text())
    next(iter(spec["obs"].values())).update(changes)
    refused(rewritten(whole, tmp_path, "spec.json", json.dumps(spec)))


def test_sizes_are_checked_before_memory_is_taken(whole, tmp_path):
    """In a process that may take 6 GB: each of these layers alone would take more."""
    sizes = {"hidden_dim": 900_000, "rnn_hidden_dim": 1_000_000, "layers": 900, "num_categories": 10**18}
    text = (checkpoint.checkpoints(whole)[-1] / "config.yaml").read_text()
    code = "import resource, reverie\nresource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))\n"
    for key, value in sizes.items():
        old = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        (tmp_path / key).mkdir()
        path = rewritten(whole, tmp_path / key, "config.yaml", text.replace(old, f"  {key}: {value}"))
        code += (
            f"try: reverie.load_player({str(path)!r}, device='cpu')\n"
            f"except reverie.UserError as error: print('refused {key}:', str(error).splitlines()[0])\n"
        )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    found = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert found == [f"refused {key}" for key in sizes], done.stdout + done.stderr[-500:]


def test_a_manifest_names_nothing_outside(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "agent").mkdir()
    for name in ("../secret", str(tmp_path / "secret")):
        with pytest.raises(Damaged, match="outside"):
            check(tmp_path / "agent", {name: fingerprint(tmp_path / "secret")})
    (tmp_path / "agent" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(Damaged, match="missing"):
        check(tmp_path / "agent", {"link": fingerprint(tmp_path / "secret")})


def test_a_saved_agent_does_not_choose_what_code_is_run(whole, tmp_path, monkeypatch, capsys):
    """`gymnasium.make("module:Name")` imports the module: only if the user says so."""
    from reverie import cli

    text = (checkpoint.checkpoints(whole)[-1] / "config.yaml").read_text().replace("id: custom:toy", "id: evil:Name-v0")
    path = rewritten(whole, tmp_path, "config.yaml", text)
    (tmp_path / "evil.py").write_text("open('harm', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert cli.main(["eval", str(path)]) == 2
    assert "If you trust it, add --env evil:Name-v0" in capsys.readouterr().err
    with pytest.raises(UserError):
        reverie.load(path).evaluate(1)
    assert not (tmp_path / "harm").exists()


# ----------------------------------------------------------------------------------------------------------------- fuzz


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_readers_only_raise_what_tells(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("config.yaml", "spec.json", "metrics.jsonl", "weights.safetensors"):
        (folder / name).write_bytes(data)
    for read in (
        lambda: load_file(folder / "config.yaml"),
        lambda: read_json(folder / "spec.json"),
        lambda: checkpoint.read_agent(folder),
        lambda: checkpoint.verify(folder),
        lambda: checkpoint.find_agent(folder),
        lambda: read_lines(folder / "metrics.jsonl"),
    ):
        with contextlib.suppress(UserError):
            read()


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


def inside(inner):
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.recursive(PLAIN, inside))
def test_descriptions_of_any_content(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "config.yaml").write_text("{}")
    (folder / "spec.json").write_text(json.dumps({"format": 2, "obs": value, "action": value}))
    with contextlib.suppress(UserError):
        checkpoint.read_agent(folder)
