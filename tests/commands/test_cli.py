"""The command line: mistakes end in one sentence and exit code 2, machines get JSON, and the main job works."""

import json
import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import pytest
import yaml
from gymnasium import spaces
from toys import BrokenEnv, SpaceEnv

import reverie
from reverie import UserError, cli
from reverie.commands import COMMANDS, settings_of
from reverie.config import SETTINGS
from reverie.config.presets import preset_names

DEBUG = ["train", "--preset", "debug", "--quiet", "log.tensorboard=false", "log.video=false"]


def register(name, make):
    env_id = f"reverie-test/{name}-v0"
    if env_id not in gym.registry:
        gym.register(env_id, lambda render_mode=None: make(), disable_env_checker=True)
    return env_id


NAN = register("NaN", lambda: BrokenEnv(after=0))
LATE_NAN = register("LateNaN", lambda: BrokenEnv(after=60))
TEXT = register("Text", lambda: SpaceEnv(spaces.Dict({"words": spaces.Text(5)})))
WORDY = register("Wordy", lambda: SpaceEnv(spaces.Box(-1, 1, (2,)), spaces.Text(5)))
TINY = register("Tiny", lambda: SpaceEnv(spaces.Box(0, 255, (3, 3, 3), "uint8")))


@pytest.fixture
def fails(capsys):
    """fails(*words) runs the command and checks the form of its complaint. -> what is printed on stderr."""

    def run(*words):
        capsys.readouterr()
        assert cli.main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert [line.startswith("error: ") for line in lines].count(True) == 1
        assert len(lines) <= 2
        assert all(line.startswith(("error: ", "hint: ")) for line in lines)
        assert "Traceback" not in err
        assert out == ""
        return err

    return run


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "demp"], "no preset 'demp', did you mean 'demo'?"),
        (["behavior.gama=0.9"], "'behavior.gama' does not exist, did you mean 'behavior.gamma'?"),
        (["--behaviour.gamma", "0.9"], "did you mean 'behavior.gamma'?"),
        (["--batchsize", "9"], "'batchsize' does not exist, did you mean 'train.batch_size'?"),
        (["gamma=much"], "'behavior.gamma' must be a number, got 'much'"),
        (["--seed", "one"], "'train.seed' must be a whole number, got 'one'"),
        (["--env-steps", "many"], "'train.env_steps' must be a whole number, got 'many'"),
        (["--minutes", "-3"], "'train.minutes' must not be negative"),
        (["latents=binary"], "must be one of categorical, gaussian"),
        (["gamma=2"], "'behavior.gamma' must be between 0 and 1"),
        (["gamma"], "unknown argument 'gamma'"),
        (["--gamma"], "setting 'gamma' has no value"),
        (["--env", "NoSuchTask-v0"], "cannot make 'NoSuchTask-v0'"),
        (["--env", ""], "no environment is given"),
        (["--env", NAN], "observation 'observation' contains NaN at step 0"),
        (["--env", TEXT], "the environment has no usable observation"),
        (["--env", WORDY], "the action space Text(1, 5"),
        (["--env", TINY, "env.image_size=0"], "4x4"),
        (["decoder_kernels=5,5,6,6", "--env", "MiniGrid-Empty-6x6-v0"], "64x64"),
        (["compute.device=banana"], "banana"),
    ],
)
def test_bad_input_gets_one_sentence(fails, tmp_path, words, message):
    named = ["--run", tmp_path / "run"] + ([] if "--env" in words else ["--env", "CartPole-v1"])
    assert message in fails(*DEBUG, *named, *words)


def test_a_missing_extra_is_reported(fails, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    message = fails(*DEBUG, "--env", "MiniGrid-Empty-6x6-v0", "--run", tmp_path / "run")
    assert "pip install 'minigrid" in message


def test_a_missing_logger_is_reported(fails, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    message = fails(*DEBUG, "--env", "CartPole-v1", "--run", tmp_path / "run", "log.wandb=true")
    assert "pip install wandb" in message


def test_an_unwritable_run_directory_is_reported(fails, tmp_path, files_of):
    (tmp_path / "file").write_text("mine")
    message = fails(*DEBUG, "--env", "CartPole-v1", "--run", tmp_path / "file" / "run")
    assert f"cannot write to {tmp_path / 'file' / 'run'}" in message
    assert files_of(tmp_path) == {"file": b"mine"}


def test_a_name_that_is_too_long_is_reported(fails, tmp_path):
    assert "cannot use the path" in fails(*DEBUG, "--env", "CartPole-v1", "--run", tmp_path / ("x" * 300))


def test_a_run_directory_of_another_task_is_reported_and_kept(fails, cartpole, files_of):
    before = files_of(cartpole)
    message = fails(*DEBUG, "--env", "MiniGrid-Empty-6x6-v0", "--run", cartpole)
    assert "env.id = 'CartPole-v1' (asked for 'MiniGrid-Empty-6x6-v0')" in message
    assert files_of(cartpole) == before


def test_a_directory_that_is_no_run_is_reported_and_kept(fails, tmp_path, files_of):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "is not the directory of a run" in fails(*DEBUG, "--env", "CartPole-v1", "--run", tmp_path)
    assert files_of(tmp_path) == {"thesis.tex": b"years of work"}


def test_an_environment_that_breaks_later_is_reported_with_its_step(fails, tmp_path):
    message = fails(*DEBUG, "--env", LATE_NAN, "--run", tmp_path / "run", "--env-steps", "1000")
    assert "observation 'observation' contains NaN at step 60" in message


def test_all_faults_are_reported_in_one_line(fails, tmp_path):
    message = fails(*DEBUG, "--env", "CartPole-v1", "--run", tmp_path / "run", "gama=1", "layers=x", "lambda_=7")
    assert all(word in message.splitlines()[0] for word in ("'gama'", "'model.layers'", "'behavior.lambda_'"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["presets", "demp"], "did you mean 'demo'?"),
        (["presets", "--diff", "demo", "x"], "there is no preset 'x'"),
        (["eval", "no/such/run"], "no/such/run is not a run or a saved agent"),
        (["info", "no/such/run"], "no/such/run"),
        (["eval", "x", "gamma=1"], "unknown argument 'gamma=1'"),
        (["envs", "nofamily"], "there is no family 'nofamily'"),
        (["envs", "minigrid", "extra"], "unknown argument 'extra'"),
    ],
)
def test_other_commands_complain_alike(fails, words, message):
    assert message in fails(*words)


def test_a_run_on_a_custom_environment_cannot_be_played_here(fails, make_run, tmp_path):
    make_run(tmp_path / "run").train()
    assert "custom environment" in fails("eval", tmp_path / "run")
    assert "custom" in fails("train", "--quiet", "--run", tmp_path / "run", "env_steps=200")


def test_a_damaged_run_is_reported(fails, make_run, tmp_path):
    run = make_run(tmp_path / "run")
    run.train()
    for path in (tmp_path / "run" / "checkpoints").rglob("weights.safetensors"):
        path.write_bytes(b"half")
    assert "weights.safetensors" in fails("eval", tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "prog"),
    [
        ([], "reverie"),
        (["fly"], "reverie"),
        (["eval"], "reverie eval"),
        (["eval", "x", "--episodes", "0"], "reverie eval"),
        (["eval", "x", "--mode", "best"], "reverie eval"),
        (["sweep", "plan.toml", "--on", "nowhere"], "reverie sweep"),
    ],
)
def test_wrong_arguments_are_a_sentence_and_no_page_of_usage(words, prog, capsys):
    assert cli.main(words) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert error.endswith(".")
    assert hint == f"hint: See {prog} --help."


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def broken(args):
        raise RuntimeError("a bug")

    monkeypatch.setitem(COMMANDS, "envs", COMMANDS["envs"]._replace(run=broken))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["envs"])


def test_a_user_error_reads_as_one_text():
    assert str(UserError("It broke.", "Repair it.")) == "It broke. Repair it."
    assert str(UserError("It broke.")) == "It broke."


# -------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: reverie {command}" in capsys.readouterr().out


def test_the_main_help_lists_the_commands_and_teaches_by_example(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"    {command}" in text for command in COMMANDS)
    assert "reverie train --preset demo" in text


def test_the_help_of_train_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    text = capsys.readouterr().out
    for key, (_, _, doc, _) in SETTINGS.items():
        assert f"  {key} " in text
        assert doc in text


def output(capsys, *words):
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_presets_are_listed(capsys):
    text = output(capsys, "presets")
    assert [line.split()[0] for line in text.splitlines()] == preset_names()
    assert set(json.loads(output(capsys, "presets", "--json"))) == set(preset_names())


def test_a_preset_is_shown_with_every_value(capsys):
    text = output(capsys, "presets", "debug")
    assert all(f" {key} " in text for key in SETTINGS)
    assert "* model.hidden_dim" in text
    values = json.loads(output(capsys, "presets", "debug", "--json"))
    assert set(values) == set(SETTINGS)
    assert values["model.hidden_dim"] == {"value": 16, "source": "ours: tiny", "preset": "debug"}


def test_two_presets_are_compared(capsys):
    differences = json.loads(output(capsys, "presets", "--diff", "default", "debug", "--json"))
    assert [side["value"] for side in differences["model.hidden_dim"]] == [400, 16]
    assert "behavior.gamma" not in differences
    assert "model.hidden_dim" in output(capsys, "presets", "--diff", "default", "debug")
    assert json.loads(output(capsys, "presets", "--diff", "demo", "demo", "--json")) == {}


def test_every_setting_is_listed(capsys):
    text = output(capsys, "presets", "--keys")
    assert all(key in text and f"[{setting.source}]" in text for key, setting in SETTINGS.items())
    listed = json.loads(output(capsys, "presets", "--keys", "--json"))
    assert listed["behavior.gamma"] == [0.99, SETTINGS["behavior.gamma"].doc, SETTINGS["behavior.gamma"].source]


def test_environments_are_listed(capsys):
    rows = json.loads(output(capsys, "envs", "--json"))
    assert {"minigrid", "gymnasium"} <= {row["family"] for row in rows}
    assert all(set(row) == {"family", "installed", "example", "install", "debian", "note", "repeat"} for row in rows)
    assert "MiniGrid" in output(capsys, "envs")


def test_a_missing_family_is_listed_as_missing(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", None)
    rows = {row["family"]: row for row in json.loads(output(capsys, "envs", "--json"))}
    assert rows["minigrid"]["installed"] is False
    assert "install: pip install 'minigrid" in output(capsys, "envs")


def test_the_machine_is_described(capsys):
    facts = json.loads(output(capsys, "info", "--json"))
    assert {"reverie", "python", "torch", "cpus", "gpu"} <= set(facts)
    assert "torch" in output(capsys, "info")


@pytest.mark.parametrize(
    "words",
    [
        ["--behavior.gamma", "0.5"],
        ["--behavior.gamma=0.5"],
        ["behavior.gamma=0.5"],
        ["gamma=0.5"],
        ["--gamma", "0.5"],
    ],
)
def test_a_setting_can_be_written_in_several_ways(words):
    overrides = settings_of(words)
    assert overrides in ({"behavior.gamma": "0.5"}, {"gamma": "0.5"})


def test_dashes_and_negative_values_are_understood():
    assert settings_of(["--image-size", "32", "--minutes=-1", "id=a=b"]) == {
        "image_size": "32",
        "minutes": "-1",
        "id": "a=b",
    }


# ------------------------------------------------------------------------------------------------------ the main job


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    """A run of preset debug on CartPole, trained by the command."""
    run = tmp_path_factory.mktemp("cli") / "run"
    words = [*DEBUG[:-1], "--env", "CartPole-v1", "--run", str(run), "--seed", "3", "gamma=0.9"]
    assert cli.main(words) == 0
    return run


def test_train_leaves_a_run_behind(cartpole):
    values = yaml.safe_load((cartpole / "config.yaml").read_text())
    assert values["env"]["id"] == "CartPole-v1"
    assert (values["train"]["seed"], values["behavior"]["gamma"], values["model"]["hidden_dim"]) == (3, 0.9, 16)
    assert (cartpole / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert list((cartpole / "videos").glob("eval-*.gif"))


def test_eval_plays_and_records(cartpole, capsys, tmp_path):
    text = output(capsys, "eval", cartpole, "--episodes", 3, "--json", "--video", tmp_path / "video.gif")
    found = json.loads(text)
    assert set(found) == {"env", "mode", "mean", "ci95", "episodes", "scores", "lengths", "video"}
    assert found["env"] == "CartPole-v1"
    assert len(found["scores"]) == found["episodes"] == 3
    assert found["scores"] == [float(length) for length in found["lengths"]]
    assert found["mean"] == pytest.approx(sum(found["scores"]) / 3)
    assert (tmp_path / "video.gif").read_bytes().startswith(b"GIF8")


def test_eval_is_repeatable_and_depends_on_its_seed(cartpole, capsys, tmp_path):
    words = ["eval", cartpole, "--episodes", 4, "--json", "--mode", "train", "--video", tmp_path / "video.gif"]
    first, again, other = (json.loads(output(capsys, *words, "--seed", seed))["scores"] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_eval_in_words(cartpole, capsys, tmp_path):
    text = output(capsys, "eval", cartpole / "checkpoints" / "best", "--episodes", 2, "--video", tmp_path / "video.gif")
    assert "CartPole-v1: return" in text
    assert "over 2 episodes" in text


def test_playing_a_saved_agent_does_not_spoil_it(cartpole, capsys, tmp_path):
    agent = reverie.load(cartpole)
    path = agent.save(tmp_path / "agent")
    output(capsys, "eval", path, "--episodes", 1)
    agent.save(path)  # a video lies beside the weights now, which is no reason to refuse
    assert reverie.load(path).config == agent.config


def test_a_video_that_cannot_be_written_is_reported(cartpole, capsys, tmp_path):
    """Before it takes minutes to play."""
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert cli.main(["eval", str(cartpole), "--episodes", "1", "--video", str(tmp_path / "file" / "a.gif")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: cannot write ")


def test_selftest_names_the_equation_that_broke(capsys, fails, monkeypatch):
    facts = json.loads(output(capsys, "selftest", "--only", "lambda-return", "--json"))
    assert facts["ok"]
    assert len(facts["checks"]) == 2
    assert "nothing like this" in fails("selftest", "--only", "nothing like this")
    from reverie.selftest import behaviour

    right = behaviour.compute_lambda_returns

    def broken(rewards, values, continues, *, gamma, lambda_):
        return right(rewards, values, continues, gamma=gamma, lambda_=1 - lambda_)

    monkeypatch.setattr(behaviour, "compute_lambda_returns", broken)
    capsys.readouterr()
    assert cli.main(["selftest", "--only", "lambda-return"]) == 1
    assert "broken: lambda-return, by hand" in capsys.readouterr().out


def test_info_reports_the_state_of_a_run(cartpole, capsys):
    facts = json.loads(output(capsys, "info", cartpole, "--json"))
    assert facts["task"] == "CartPole-v1"
    assert facts["seed"] == 3
    assert facts["env steps"].endswith("of 200")
    assert facts["updates"] > 0
    assert facts["checkpoint"].startswith("step-")
    assert isinstance(facts["evaluation"], float)
    assert "CartPole-v1" in output(capsys, "info", cartpole)


def test_the_same_command_continues_without_naming_the_settings_again(capsys, tmp_path):
    run = tmp_path / "run"
    output(capsys, *DEBUG, "--env", "CartPole-v1", "--run", run, "--env-steps", "120", "gamma=0.9")
    first = json.loads(output(capsys, "info", run, "--json"))
    output(capsys, "train", "--quiet", "--run", run, "--env-steps", "240")
    second = json.loads(output(capsys, "info", run, "--json"))
    assert second["updates"] > first["updates"]
    assert int(second["env steps"].split()[0]) >= 240
    assert yaml.safe_load((run / "config.yaml").read_text())["behavior"]["gamma"] == 0.9


def test_quiet_prints_nothing(capsys, tmp_path):
    capsys.readouterr()
    assert cli.main([*DEBUG, "--env", "CartPole-v1", "--run", str(tmp_path / "run"), "--env-steps", "60"]) == 0
    assert capsys.readouterr() == ("", "")


def test_train_reports_what_it_does_and_what_to_look_at(capsys, tmp_path):
    words = [w for w in DEBUG if w != "--quiet"]
    assert cli.main([*words, "--env", "CartPole-v1", "--run", str(tmp_path / "run"), "--env-steps", "60"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    for words in (
        "CartPole-v1",
        "observation: vector 4",
        "parameters on",
        "evaluation at step",
        "reached train.env_steps=60",
        "curve.png",
    ):
        assert words in err


def test_train_prints_its_outcome_as_json(capsys, tmp_path):
    run = tmp_path / "run"
    found = json.loads(output(capsys, *DEBUG, "--env", "CartPole-v1", "--run", run, "--env-steps", "80", "--json"))
    assert set(found) == {"run", "env_steps", "updates", "seconds", "evaluation"}
    assert found["run"] == str(run)
    assert found["env_steps"] >= 80
    assert found["evaluation"]["episodes"] == 2


def test_train_without_a_run_directory_makes_one_under_runs(in_tmp):
    assert cli.main([*DEBUG, "--env", "CartPole-v1", "--env-steps", "60", "--seed", "5"]) == 0
    assert (in_tmp / "runs" / "CartPole-v1-debug-s5" / "config.yaml").exists()


# --------------------------------------------------------------------------------------------------- real processes


def command(*words):
    return [sys.executable, "-m", "reverie.cli", *map(str, words)]


def test_a_mistake_in_a_real_process(tmp_path):
    done = subprocess.run(command("train", "--preset", "nope"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no preset 'nope'")
    assert "Traceback" not in done.stderr


def test_sigterm_ends_a_real_run_with_a_checkpoint(tmp_path):
    run = tmp_path / "run"
    words = [*DEBUG, "--env", "CartPole-v1", "--run", run, "--env-steps", "1000000", "log_every=0.1"]
    process = subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        assert (run / "metrics.jsonl").exists()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert list((run / "checkpoints").glob("step-*/state.json"))
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [["train", "--preset", "debug", "--env", "CartPole-v1"], ["train", "--env", "robot.py:make"], ["info", "runs/x"],
     ["check-env", "robot:make"], ["eval", "runs/x"], ["compare", "a", "b"], ["sweep", "a.toml", "--out", "b"]],
)  # fmt: skip
def test_a_current_directory_that_was_removed_is_one_sentence(words, tmp_path, monkeypatch, capsys):
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "has been removed" in said or "does not exist" in said or "runs/x" in said
    assert said.count("\n") == 2


def test_in_python_too(tmp_path, monkeypatch):
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    place.rmdir()
    with pytest.raises(UserError, match="lies in the current directory, which has been removed"):
        reverie.Dreamer("CartPole-v1", preset="debug", run="runs/mine")
