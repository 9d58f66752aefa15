"""`reverie tune`: the search space; trials that are pruned, fail, become NaN or are cut off; the preset at the end."""

import csv
import json
import re
import signal
import sys
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")

from reverie.cli import main
from reverie.config.presets import load_preset, origins, preset_notes
from reverie.errors import UserError
from reverie.evidence.plan import Task
from reverie.evidence.space import Choice, Range, read_space
from reverie.evidence.tune import Problem, Search

LR, BATCH = "model.world_model_lr", "train.batch_size"

# ---------------------------------------------------------------------------------------------------------------- space


def test_a_space_is_read_from_the_command_line():
    words = {
        "world_model_lr": "1e-4..1e-2", "gamma": "0.9..0.99", "batch_size": "8..32", "kl_scale": "lin:0.1..10",
        "free_nats": "log:1..3", "latents": "categorical,gaussian", "model.norm": "true,false", "actor_lr": "1e-4",
        "env.options": "a=1,b=2",
    }  # fmt: skip
    found, fixed = read_space(words)
    assert found == [
        Range(LR, 1e-4, 1e-2, whole=False, log=True),
        Range("behavior.gamma", 0.9, 0.99, whole=False, log=False),
        Range(BATCH, 8, 32, whole=True, log=False),
        Range("model.kl_scale", 0.1, 10, whole=False, log=False),
        Range("model.free_nats", 1, 3, whole=False, log=True),
        Choice("model.latents", ("categorical", "gaussian")),
        Choice("model.norm", ("true", "false")),
    ]
    assert fixed == {"behavior.actor_lr": "1e-4", "env.options": "a=1,b=2"}  # a tuple has commas of its own


MISTAKES = [
    (["world_model_lr=1e-2..1e-4"], "'model.world_model_lr=1e-2..1e-4': the first number must be below the second."),
    (["world_model_lr=low..high"], "'model.world_model_lr=low..high' is not of the form LOW..HIGH."),
    (["batch_size=8.5..32"], "'train.batch_size' is a whole number, and the ends of 8.5..32 are not."),
    (["gamma=log:0..1"], "'behavior.gamma=log:0..1': a logarithmic scale begins above zero."),
    (["latents=categorical,"], "'model.latents=categorical,' has an empty value, or one twice."),
    (["latents=log:1..2"], "'model.latents=log:1..2' is not a range."),
    (["gamma=0.9"], "there is nothing to search: no setting has a range or several values."),
    ([], "there is nothing to search"),
    (["gama=0.9..1"], "override 'gama' does not exist, did you mean 'behavior.gamma'?"),
    (["gamma=0.9..1.5"], "task 'CartPole-v1', variant 'trial-0000': 'behavior.gamma' must"),
    (["latents=categorical,gausian"], "task 'CartPole-v1', variant 'trial-0000': setting 'model.latents' must be"),
    (["gamma=0.9..0.99", "--preset", "auto"], "preset auto chooses values by the speed of the machine"),
    (["gamma=0.9..0.99", "--preset", "nope"], "there is no preset 'nope'"),
    (["env_steps=100..200", "--env-steps", "100"], "'train.env_steps' is both searched and set."),
    (["gamma=0.9..0.99", "--cpus", "2"], "--cpus is an option of clusters."),
    (["gamma"], "unknown argument 'gamma'." ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[" ".join(words) or "none" for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence(words, sentence, in_tmp, capsys):
    rest = ["--preset", "debug"] if "--preset" not in words else []
    if words == ["gamma"]:  # after a first word, which is taken for the plan
        words = ["kl_scale=1..2", "gamma"]
    assert main(["tune", "--env", "CartPole-v1", *rest, *words]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"error: {sentence}")
    assert shown.out == ""
    assert list(in_tmp.iterdir()) == []


def test_mistakes_with_a_plan_are_one_sentence(in_tmp, capsys):
    task = '[[task]]\nenv = "CartPole-v1"\npreset = "debug"\n'
    Path("two.toml").write_text(task + task.replace("[[task]]", '[[task]]\nname = "b"'))
    Path("one.toml").write_text(task)
    for words, sentence in [
        (["two.toml"], "two.toml must have one task and no variants to be searched."),
        (["one.toml", "--env-steps", "3"], "--env-steps is in the plan."),
        (["none.toml"], ""),
    ]:
        assert main(["tune", *words, "gamma=0.9..0.99"]) == 2
        assert capsys.readouterr().err.startswith(f"error: {sentence}")
    assert main(["tune", "gamma=0.9..0.99"]) == 2
    assert capsys.readouterr().err.startswith("error: a search needs a plan, or --preset with what stays as it is.")


def test_a_dry_run_says_what_would_be_searched(in_tmp, capsys):
    words = ["tune", "--env", "CartPole-v1", "--preset", "debug", "gamma=0.9..0.99", "actor_lr=1e-4", "--dry-run"]
    assert main([*words, "--seeds", "2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    settings = {"env.id": "CartPole-v1", "behavior.actor_lr": "1e-4"}
    assert facts == {
        "task": "CartPole-v1", "preset": "debug", "space": {"behavior.gamma": "0.9..0.99"}, "settings": settings,
        "seeds": [0, 1],
    }  # fmt: skip
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("CartPole-v1: behavior.gamma=0.9..0.99; 20 trials, 1 at a time, in ")
    assert list(in_tmp.iterdir()) == []


def test_without_optuna_the_extra_is_named(in_tmp, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "--env", "CartPole-v1", "--preset", "debug", "gamma=0.9..0.99"]) == 2
    assert capsys.readouterr().err == "error: reverie tune needs Optuna.\nhint: pip install 'reverie-rl[tune]'\n"


# --------------------------------------------------------------------------------------------------------------- trials


class Pretended:
    """A run that is not made: its evaluations come one per look; a scripted end."""

    def __init__(self, work, script):
        self.work, self.script, self.returncode, self.ended = work, script, None, False
        self.settings = dict(word.split("=", 1) for word in work.command if "=" in word)
        self.looks = 0
        work.run.mkdir(parents=True, exist_ok=True)
        work.log.parent.mkdir(parents=True, exist_ok=True)

    def poll(self):
        if self.returncode is not None:
            return self.returncode
        if self.ended:
            self.returncode = 0
            return 0
        self.looks += 1
        value = self.script(self)
        if isinstance(value, int) and not isinstance(value, bool):
            self.returncode = value
            return value
        steps = int(self.settings["train.env_steps"])
        line = {"phase": "eval", "env_steps": steps * self.looks // 10, "return": value, "length": 5}
        line["frames"] = line["env_steps"]
        with open(self.work.run / "episodes.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        if self.looks == 10:
            self.ended = True
        return None

    def terminate(self):
        self.returncode = 0

    kill = terminate

    def wait(self, timeout=None):
        return self.poll()


class Pretending:
    """An executor of such runs."""

    interval = 0.0

    def __init__(self, script):
        self.script, self.started = script, []

    def batch(self):
        from contextlib import nullcontext

        return nullcontext()

    def start(self, work):
        self.started.append(Pretended(work, self.script))
        return self.started[-1]

    def close(self):
        """Nothing is held."""


def search(folder, script, *, pruner="none", seeds=(0,), said=None, **fixed):
    dimensions, _ = read_space({"gamma": "0.5..0.99", "batch_size": "4..8"})
    problem = Problem(
        "t", Task("CartPole-v1", "debug", {"env.id": "CartPole-v1", "train.env_steps": 1000}), dimensions, fixed, seeds
    )
    say = (said if said is not None else []).append
    return Search(problem, folder, pruner=pruner, say=say, executor=Pretending(script))


def gamma_of(run):
    return float(run.settings["behavior.gamma"])


def test_the_best_of_the_trials_becomes_a_preset(tmp_path):
    found = search(tmp_path, gamma_of, seeds=(0, 1), **{"behavior.actor_lr": "1e-4"})
    found.run(6, 2)
    files = {path.name for path in found.write()}
    assert files == {"best.yaml", "trials.csv", "trials.json", "trials.png"}
    best = max(found.trials, key=lambda each: each.params["behavior.gamma"])
    assert found.best().number == best.number
    assert best.value == pytest.approx(best.params["behavior.gamma"])
    preset = str(tmp_path / "best.yaml")
    config = load_preset(preset)
    assert (config.behavior.gamma, config.train.batch_size) == (best.params["behavior.gamma"], best.params[BATCH])
    assert (config.env.id, config.train.env_steps, config.behavior.actor_lr) == ("CartPole-v1", 1000, 1e-4)
    assert config.model.rnn_hidden_dim == load_preset("debug").model.rnn_hidden_dim
    source = origins(preset)["behavior.gamma"].source
    assert source == f"tuned: trial {best.number}, searched 0.5..0.99"
    notes = "\n".join(preset_notes(preset))
    for what in ("command: ", "commit: ", "seeds: 0, 1; score: ", f"trial {best.number} of 6 trials"):
        assert what in notes
    assert len(found.executor.started) == 12  # two seeds each
    rows = list(csv.DictReader((tmp_path / "trials.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["COMPLETE"] * 6
    assert all(isinstance(each.params[BATCH], int) for each in found.trials)


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_poor_trials_are_stopped_early(pruner, tmp_path):
    """Good ones first; those after them are worse at every evaluation."""
    count = []

    def script(run):
        if run.looks == 1:
            count.append(run)
        return 100.0 if len(count) <= 6 else 1.0

    found = search(tmp_path, script, pruner=pruner)
    found.run(9, 1)
    states = [each.state.name for each in found.trials]
    assert states[:5] == ["COMPLETE"] * 5
    assert states[6:] == ["PRUNED"] * 3
    poor = found.executor.started[6:]
    assert all(run.looks < 10 for run in poor)
    assert all(re.match(r"pruned at \d+ steps", each.user_attrs["outcome"]) for each in found.trials[6:])


def test_a_run_that_becomes_non_finite_is_a_pruned_trial_and_one_that_breaks_a_failed_one(tmp_path):
    said = []

    def script(run):
        if len(runs := found.executor.started) == 1:
            return 1.0
        words = "training became non-finite before update 3: kl." if len(runs) == 2 else "the robot fell over."
        run.work.log.write_text(f"error: {words}\nhint: do this\n")
        return 2

    found = search(tmp_path, script, said=said)
    found.run(3, 1)
    assert [each.state.name for each in found.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert found.trials[1].user_attrs["outcome"].startswith("non-finite: error: training became non-finite")
    log = found.executor.started[-1].work.log
    assert found.trials[2].user_attrs["outcome"] == f"error: the robot fell over. hint: do this (log: {log})"
    assert "FAILED: error: the robot fell over." in said[-1]


def test_a_search_in_which_all_fails_ends(tmp_path):
    def script(run):
        run.work.log.write_text("error: no licence\n")
        return 2

    with pytest.raises(UserError, match="the first 3 trials failed: error: no licence"):
        search(tmp_path, script).run(50, 1)


def test_a_killed_run_is_started_again(tmp_path):
    said = []

    def script(run):
        return -signal.SIGKILL if len(found.executor.started) == 1 and run.looks == 4 else 1.0

    found = search(tmp_path, script, said=said)
    found.executor.interval = 0
    found.run(1, 1)
    assert said[0] == "trial 0: killed by SIGKILL; started again (1 of 2 times)"
    assert [run.work.name for run in found.executor.started] == ["CartPole-v1--trial-0000--s0"] * 2
    assert found.trials[0].state.name == "COMPLETE"


def test_a_search_that_was_cut_off_continues_its_trials_and_proposes_nothing_twice(tmp_path):
    class Cut(BaseException):
        """The process ends here."""

    def script(run):
        if len(first.executor.started) == 3 and run.looks == 5 and len(run.settings):
            raise Cut
        return gamma_of(run)

    first = search(tmp_path, script)
    with pytest.raises(Cut):
        first.run(6, 1)
    assert [each.state.name for each in first.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]
    first.executor.started.clear()
    second = search(tmp_path, gamma_of)
    second.run(6, 1)
    assert [each.state.name for each in second.trials] == ["COMPLETE"] * 6
    assert [run.work.name.split("--")[1] for run in second.executor.started] == [f"trial-{n:04d}" for n in (2, 3, 4, 5)]
    assert len({each.params["behavior.gamma"] for each in second.trials}) == 6
    with pytest.raises(UserError, match=r"holds another search: settings was .* Choose another --out"):
        search(tmp_path, gamma_of, **{"behavior.actor_lr": "1e-3"}).run(7, 1)


class Odd(Problem):
    """The first values do not go together."""

    def runs(self, number, values):
        if number == 0:
            raise UserError("these do not go together.")
        return super().runs(number, values)


def test_values_that_do_not_go_together_are_a_pruned_trial(tmp_path):
    found = search(tmp_path, gamma_of)
    found.problem = Odd(**vars(found.problem))
    found.run(2, 1)
    outcomes = [(each.state.name, each.user_attrs["outcome"][:10]) for each in found.trials]
    assert outcomes[0] == ("PRUNED", "these do n")
    assert outcomes[1][0] == "COMPLETE"


# ----------------------------------------------------------------------------------------------------------- whole runs

PAGE = (Path(__file__).parents[2] / "docs" / "tune.md").read_text()


@pytest.mark.slow
def test_the_pages_example_runs_is_extended_and_its_preset_trains(in_tmp, capsys):
    """With a smaller preset and budget. In this process, with real runs in others."""
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = [line.split("#")[0].split() for line in script.replace("\\\n", " ").splitlines() if line.strip()]
    tuning, training = lines
    assert tuning[:2] == ["reverie", "tune"]
    smaller = {"vector": "debug", "12000": "130", "30": "2", "12_000": "130"}
    words = [smaller.get(word, word) for word in tuning[1:]]
    assert main([*words, "train.eval_episodes=1", "compute.threads=1"]) == 0
    assert "best      reverie train --preset" in capsys.readouterr().out
    trials = [*words, "train.eval_episodes=1", "compute.threads=1", "--trials", "3", "--json"]
    assert main(trials) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [row["state"] in ("COMPLETE", "PRUNED") for row in facts["trials"]] == [True] * 3
    assert len(facts["best"]["settings"]) == 3
    assert main([*training[1:], "--run", "again", "--quiet"]) == 0
    config = load_preset(training[training.index("--preset") + 1])
    assert config.model.world_model_lr == facts["best"]["settings"][LR]


def test_the_page_shows_what_help_shows(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    shown = capsys.readouterr().out
    for word in ("--pruner", "--trials", "--jobs", "--seeds", "best.yaml", "trials.csv", "study.log", "log:", "lin:"):
        assert word in PAGE
        assert word in shown
