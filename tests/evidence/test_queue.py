"""benchmarks/queue.toml lists valid runs under published protocols; benchmarks/gpu_queue.py works it off in slices."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

from reverie.config import to_dict
from reverie.evidence.protocol import facts_of, mismatches
from reverie.evidence.record import task_key, tasks
from reverie.evidence.results import read_result

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_queue.py"
ONE = "atari100k-pong-s0"
#: item of the list -> the record that its scores are compared with
REFERENCES = {
    "atari100k": "atari-100k", "dmc-vision": "dreamerv2-dmc", "crafter": "crafter", "atari-paper": "dreamerv2-atari"
}  # fmt: skip

#: Stands for `reverie train`: 200 of 400 steps at first, waiting for SIGTERM then; the rest when it is continued.
TRAIN = """
import json, os, pathlib, shutil, signal, sys
run = pathlib.Path(sys.argv[sys.argv.index("--run") + 1])
if run.name == os.environ.get("FAILS"):
    sys.exit("error: the game is broken")
going_on = run.exists()
run.mkdir(parents=True, exist_ok=True)
shutil.copy(os.environ["CONFIG"], run / "config.yaml")
steps = 400 if going_on or "AT_ONCE" in os.environ else 200
line = {"phase": "train", "env_steps": steps, "frames": 4 * steps, "return": 1.0, "length": 200}
lines = [line] + [line | {"phase": "eval"}] * (steps == 400)
with open(run / "episodes.jsonl", "a") as file:
    file.writelines(json.dumps(line) + "\\n" for line in lines)
if steps == 200:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()
"""


def load():
    spec = importlib.util.spec_from_file_location("reverie_queue", SCRIPT)
    module = sys.modules["reverie_queue"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


queue = load()


@pytest.fixture
def call(tmp_path, capsys):
    """call(command, ...) -> (exit code, stdout, stderr), in small, in a place of its own."""

    def run(command, *words):
        where = ["--small", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
        code = queue.main([command, *where, *words])
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def fake_train(tmp_path, monkeypatch):
    script, config = tmp_path / "train.py", tmp_path / "config.yaml"
    script.write_text(TRAIN)
    task = queue.chosen(queue.read_list(small=True)[1], ONE)[0]
    config.write_text(yaml.safe_dump(to_dict(task.config())))
    monkeypatch.setenv("CONFIG", str(config))
    monkeypatch.setattr(queue, "TRAIN", (sys.executable, str(script)))
    monkeypatch.setattr(queue, "installed", lambda family: True)


# ------------------------------------------------------------------------------------------------------------- the list


def all_tasks(**options):
    return [task for item in queue.read_list(**options)[1] for task in item.tasks]


@pytest.mark.parametrize("small", [False, True])
def test_every_run_of_the_list_is_valid(small):
    found = all_tasks(small=small)
    assert len({task.name for task in found}) == len(found)
    for task in found:
        if not task.command:
            config = task.config()
            assert (config.env.id, config.train.seed) == (task.env, task.seed)
            assert config.train.env_steps == 400 or not small


def test_the_order_is_that_of_the_issue():
    items = queue.read_list()[1]
    assert [item.name for item in items] == [
        "gpu-tests", "gpu-speed", "atari100k-first", "dmc-vision", "crafter", "atari-paper", "atari100k-rest",
        "atari100k-seeds",
    ]  # fmt: skip
    assert all(item.why and (not item.estimate or item.estimate.startswith("estimate: ")) for item in items)
    runs = {task.name for task in all_tasks() if task.label == "atari100k"}
    assert len(runs) == 26 * 5
    games = {task_key(task.env) for task in all_tasks() if task.label == "atari100k"}
    assert games == set(tasks("atari-100k"))


def test_every_run_has_the_protocol_of_its_reference():
    for task in all_tasks():
        if not task.command:
            config, line = (
                task.config(),
                "standard look" if "look=standard" in task.settings.get("env.options", ()) else "",
            )
            assert mismatches(facts_of(config, line), REFERENCES[task.label]) == [], task.name


def test_budgets_and_evaluations_are_those_of_the_issue():
    found = {task.label: task.config() for task in all_tasks() if task.preset}
    frames = {label: config.train.env_steps * config.env.action_repeat for label, config in found.items()}
    assert frames == {
        "atari100k": 400_000, "dmc-vision": 500_000, "crafter": 1_000_000, "atari-paper": 10_000_000
    }  # fmt: skip
    hundred, paper = found["atari100k"].train, found["atari-paper"].train
    assert (hundred.eval_every, hundred.eval_episodes, hundred.eval_mode) == (0, 100, "train")
    assert paper.eval_episodes * 250_000 / paper.eval_every == 10  # evaluation episodes in a bin of 1M frames


def test_a_command_line_means_the_same_settings():
    from reverie.commands import settings_of
    from reverie.config.presets import load_preset

    for task in (task for item in queue.read_list()[1] for task in item.tasks[:1] if task.preset):
        words = task.words(Path("runs/x"))
        pairs = words[words.index("--no-doctor") + 1 :]
        given = settings_of(pairs) | {"env.id": task.env, "train.seed": str(task.seed)}
        assert load_preset(task.preset, given) == task.config()


# --------------------------------------------------------------------------------------------------------------- slices


def test_a_run_goes_on_in_the_next_slice(call, fake_train, tmp_path):
    code, said, _ = call("next", "--only", ONE, "--minutes", "0.06", "--reserve", "1")
    assert (code, "begun 200 of 400 steps; the next slice resumes it" in said) == (0, True), said
    row = next(row for row in json.loads(call("list", "--json")[1]) if row["name"] == ONE)
    assert (row["state"], row["env_steps"], row["of"]) == ("begun", 200, 400)
    assert row["command"].startswith("reverie train --preset atari100k+debug --env ALE/Pong-v5 --seed 0 --run ")
    assert "begun 200 of 400 steps" in call("list")[1]

    code, said, _ = call("next", "--only", ONE, "--minutes", "1", "--reserve", "1")
    assert (code, "complete after 400 steps" in said) == (0, True), said
    result = read_result(tmp_path / "out" / f"{ONE}.json")
    assert (result.label, result.task, result.complete) == ("atari100k-small", "ALE/Pong-v5", True)
    assert len(result.scores("train")) == 2
    (tmp_path / "runs" / ONE).rename(tmp_path / "gone")  # its result is enough
    assert "1 done, 2 waiting" in call("list")[1]


def test_nothing_is_begun_when_the_slice_is_over(call, fake_train, tmp_path):
    code, said, _ = call("next", "--only", ONE, "--minutes", "0.1", "--reserve", "10")
    assert (code, f"the slice is over; next is {ONE}" in said) == (0, True)
    assert not (tmp_path / "runs").exists()


def test_a_failure_is_reported_and_the_next_item_is_begun(call, fake_train, monkeypatch, tmp_path):
    monkeypatch.setenv("FAILS", ONE)
    monkeypatch.setenv("AT_ONCE", "1")
    code, said, _ = call("next", "--only", "atari100k-first", "--minutes", "1", "--reserve", "1")
    assert code == 1
    assert f"{ONE}: failed with exit code 1: error: the game is broken\n" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "atari100k-boxing-s0.json", "atari100k-breakout-s0.json"
    ]  # fmt: skip


def test_a_missing_package_is_one_sentence(call, fake_train, monkeypatch):
    monkeypatch.setattr(queue, "installed", lambda family: False)
    code, said, _ = call("next", "--only", "crafter", "--minutes", "1")
    assert code == 1
    assert "crafter-reward-s0: not begun, for crafter is not installed; pip install 'crafter" in said


def test_a_command_is_done_once_per_version(call, tmp_path):
    def write(version, code):
        text = f'version = {version}\n[[item]]\nname = "try"\nwhy = "w"\nminutes = 1\n'
        script = f"import sys; print(7); sys.exit({code})"
        path.write_text(text + f"command = '''python -c \"{script}\"'''\n")

    path = tmp_path / "list.toml"
    words = ["--list", str(path), "--minutes", "1", "--reserve", "1"]
    write(1, 3)
    code, said, _ = call("next", *words)
    assert (code, "try: failed with exit code 3: 7" in said) == (1, True)
    mark = json.loads((tmp_path / "out" / "try.json").read_text())
    assert (mark["version"], mark["exit_code"], mark["tail"], mark["small"]) == (1, 3, ["7"], True)
    assert "failed (exit code 3)" in call("list", "--list", str(path))[1]
    write(1, 0)
    assert "done in" not in call("next", *words)[1]  # it was tried
    assert "done in" in call("next", *words, "--only", "try")[1]  # asked for by name
    write(2, 0)
    assert "waiting" in call("list", "--list", str(path))[1]


# ------------------------------------------------------------------------------------------------------------- mistakes


def test_mistakes_are_one_sentence(call, monkeypatch, capsys, tmp_path):
    code, _, said = call("next", "--only", "crafte", "--minutes", "1")
    assert (code, said) == (2, "error: the list has nothing called 'crafte'.\nhint: Did you mean crafter?\n")
    assert call("next", "--minutes", "0")[0] == 2
    assert call("list", "--list", str(tmp_path / "none"))[0] == 2
    (tmp_path / "bad.toml").write_text("version = 1\n[[item]]\nname = 'x'\n")
    assert (
        "bad.toml is not as a list should be (KeyError: 'experiment')"
        in call("list", "--list", str(tmp_path / "bad.toml"))[2]
    )
    monkeypatch.setattr(queue, "gpu_name", lambda: None)
    assert queue.main(["next", "--minutes", "1", "--runs", str(tmp_path / "r"), "--out", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err.startswith("error: there is no GPU here")
