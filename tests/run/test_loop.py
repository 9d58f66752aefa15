"""The loop: how many updates, what is written down, how it stops and goes on."""

import asyncio
import json
import os
import signal

import numpy as np
import pytest
import torch
from odd_envs import Shaky
from toys import BrokenEnv, CountingEnv, DictEnv, RandomLengthEnv, long_counting

from reverie import UserError, checkpoint
from reverie.config.presets import load_preset
from reverie.envs.border import EnvironmentFailed
from reverie.run.ending import read_end
from reverie.run.evaluation import Evaluation
from reverie.run.logger import Logger, read_lines
from reverie.run.loop import Clock, Run
from reverie.run.progress import Progress


class Watcher(Progress):
    """A quiet screen that calls a function after every vector step."""

    def __init__(self, watch):
        super().__init__(quiet=True)
        self.watch = watch

    def tick(self, run):
        self.watch(run)


def lines_of(directory, name):
    return read_lines(directory / f"{name}.jsonl")


# ---------------------------------------------------------------------------------------------------- the train ratio


@pytest.mark.parametrize(("ratio", "num_envs", "pretrain"), [(0.1, 2, 1), (0.37, 1, 0), (0.5, 3, 4), (1.5, 2, 2)])
def test_after_each_vector_step_the_updates_are_exactly_those_earned(make_run, tmp_path, ratio, num_envs, pretrain):
    last = {}  # the screen is told after each update too; what counts is the last word at each step

    def watch(run):
        if run.clock.prefilled and not run.finished():
            steps = run.clock.env_steps - run.clock.prefilled
            last[steps] = pretrain + ratio * steps - run.clock.updates

    options = {"train_ratio": ratio, "num_envs": num_envs, "pretrain": pretrain, "env_steps": 100}
    run = make_run(tmp_path / "run", **options)
    run.train(Watcher(watch))
    gaps = list(last.values())
    assert len(gaps) > 10
    assert min(gaps) >= -1e-9
    assert max(gaps) < 1 + 1e-9
    assert run.clock.achieved_ratio(pretrain) == pytest.approx(ratio, abs=(1 + ratio * num_envs) / 50)
    assert run.agent.updates == run.clock.updates


@pytest.mark.parametrize(
    ("clock", "due"),
    [
        (Clock(env_steps=500), 0),
        (Clock(env_steps=100, prefilled=100), 7),
        (Clock(env_steps=100, prefilled=100, updates=7), 0),
        (Clock(env_steps=103, prefilled=100, updates=7), 0),
        (Clock(env_steps=104, prefilled=100, updates=7), 1),
        (Clock(env_steps=140, prefilled=100, updates=9), 8),
    ],
)
def test_updates_are_owed_to_steps_after_the_prefill(clock, due):
    assert clock.updates_due(0.25, 7) == due


def test_the_ratio_is_kept_over_a_stop(make_run, tmp_path):
    for limit in (70, 95, 120):
        run = make_run(tmp_path / "run", train_ratio=0.7, env_steps=limit)
        run.train()
    earned = 1 + 0.7 * (run.clock.env_steps - run.clock.prefilled)
    assert abs(run.clock.updates - earned) <= 1 + 0.7 * 2


def test_random_actions_before_learning_are_carried_out_for_as_many_steps_as_asked_for(make_run, tmp_path):
    run = make_run(tmp_path / "run", RandomLengthEnv, action_hold=4, prefill=60, env_steps=60, num_envs=2, pretrain=0)
    run.train()
    fresh = same = 0
    for stream in range(2):
        count = int(run.replay.counts[stream])
        flags, actions = run.replay.data["is_first"][stream], run.replay.data["action"][stream]
        step = 0
        for row in range(1, count):
            step = 0 if flags[row] else step + 1  # 1: the first action of an episode
            if step > 1 and step % 4 != 1:
                assert (actions[row] == actions[row - 1]).all()
                same += 1
            elif step > 1:
                fresh += not (actions[row] == actions[row - 1]).all()
    assert same > 10
    assert fresh > 3


def test_no_update_before_the_prefill_is_there(make_run, tmp_path):
    run = make_run(tmp_path / "run", prefill=80, env_steps=60)
    before = {key: value.clone() for key, value in run.agent.state_dict().items()}
    run.train()
    assert (run.clock.updates, run.clock.prefilled) == (0, 0)
    assert all(torch.equal(before[key], value) for key, value in run.agent.state_dict().items())


# ------------------------------------------------------------------------------------------------------- the prefill


def test_the_prefill_is_random_and_then_the_policy_acts(make_run, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", prefill=60, env_steps=120)
    random_at, policy_at = [], []
    draw, act = run.spec.action.random, run.state.player.act
    spec_random = type(run.spec.action).random

    def random(self, rng, count, mask=None):
        random_at.append(run.clock.env_steps)
        return spec_random(self, rng, count, mask)

    def policy(obs, first):
        policy_at.append(run.clock.env_steps)
        return act(obs, first)

    monkeypatch.setattr(type(run.spec.action), "random", random)
    monkeypatch.setattr(run.state.player, "act", policy)
    run.train()
    assert draw is not None
    assert 0 < len(random_at) < 40
    assert max(random_at) < 60 <= min(policy_at)
    assert run.clock.prefilled == min(policy_at)


def test_random_actions_of_the_prefill_are_uniform(make_run, tmp_path):
    run = make_run(tmp_path / "run", prefill=600, env_steps=600)
    run.train()
    steps = run.replay.contents()
    taken = steps["action"][~steps["is_first"]]
    np.testing.assert_allclose(taken.mean(0), 1 / 3, atol=0.08)


# ------------------------------------------------------------------------------------------------- what is written down


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on episodes of random length, with TensorBoard, films and evaluations."""
    directory = tmp_path_factory.mktemp("loop") / "run"
    options = {"env.id": "custom:random", "eval_every": 60, "env_steps": 200, "log_every": 1e-9, "action_repeat": 2}
    run = Run(load_preset("debug", options), directory, RandomLengthEnv)
    run.train()
    return run


def test_the_files_of_a_run(finished):
    names = {p.name for p in finished.directory.iterdir()}
    assert names == {
        "config.yaml",
        "provenance.json",
        "first_rows.json",
        "metrics.jsonl",
        "episodes.jsonl",
        "checkpoints",
        "replay",
        "tensorboard",
        "end.json",
    }
    assert read_end(finished.directory) == ("done", "train.env_steps")
    assert list((finished.directory / "tensorboard").iterdir())
    assert "no video" in finished.evaluation.note  # the task cannot draw itself


def test_every_evaluation_has_its_film(tmp_path):
    """Of the picture that the agent sees, where the task cannot draw itself."""
    settings = {"env.id": "custom:echo", "eval_every": 60, "env_steps": 120, "tensorboard": False}
    run = Run(load_preset("debug", settings), tmp_path / "run", DictEnv)
    run.train()
    films = sorted((tmp_path / "run" / "videos").iterdir())
    assert len(films) == 2
    assert all(film.read_bytes().startswith(b"GIF8") for film in films)


def test_metrics_have_their_names(finished):
    lines = lines_of(finished.directory, "metrics")
    trained = [line for line in lines if "world_model/loss" in line]
    assert trained
    expected = {"env_steps", "updates", "frames", "seconds", "replay/steps", "train/ratio"}
    expected |= {"speed/env_steps_per_second", "speed/updates_per_second", "time/env", "time/replay", "time/update"}
    expected |= {"machine/ram_gb", "machine/cpu_busy"}
    expected |= {"world_model/kl", "world_model/reward_loss", "world_model/continue_loss", "world_model/grad_norm"}
    expected |= {"actor/entropy", "actor/loss", "critic/loss", "imagination/reward"}
    assert expected <= set(trained[-1])
    assert any("episode/return" in line for line in trained)
    assert all(isinstance(value, int | float) for value in trained[-1].values())


def test_metrics_go_forward_and_agree_with_the_clock(finished):
    lines = [line for line in lines_of(finished.directory, "metrics") if "updates" in line]
    assert [line["env_steps"] for line in lines] == sorted(line["env_steps"] for line in lines)
    last = lines[-1]
    assert last["env_steps"] == finished.clock.env_steps
    assert last["updates"] == finished.clock.updates
    assert last["frames"] == 2 * last["env_steps"]
    assert last["replay/steps"] == len(finished.replay)


def test_the_time_is_split_into_shares(finished):
    for line in lines_of(finished.directory, "metrics"):
        if "updates" in line:
            shares = [line["time/env"], line["time/replay"], line["time/update"]]
            assert sum(shares) == pytest.approx(1, abs=1e-5)
            assert all(0 <= share <= 1 for share in shares)
    assert finished.clock.seconds == pytest.approx(sum(finished.clock.spent.values()))


def test_every_episode_has_its_line(finished):
    episodes = lines_of(finished.directory, "episodes")
    assert all(
        set(e) == {"phase", "env_steps", "frames", "seconds", "return", "length"} and e["frames"] == 2 * e["env_steps"]
        for e in episodes
    )
    assert {e["phase"] for e in episodes} == {"prefill", "train", "eval"}
    played = [e for e in episodes if e["phase"] != "eval"]
    assert len(played) == finished.replay.contents()["is_last"].sum()
    assert sum(e["length"] for e in played) <= finished.clock.env_steps
    assert all(e["env_steps"] <= finished.clock.prefilled for e in played if e["phase"] == "prefill")
    assert all(e["env_steps"] >= finished.clock.prefilled for e in played if e["phase"] == "train")


def test_evaluations_come_when_due_and_at_the_end(finished):
    evaluations = [line for line in lines_of(finished.directory, "metrics") if "eval/return" in line]
    steps = [line["env_steps"] for line in evaluations]
    assert steps[-1] == finished.clock.env_steps
    assert all(60 <= b - a <= 60 + 2 for a, b in zip([0, *steps[:-2]], steps[:-1], strict=True))
    episodes = [e for e in lines_of(finished.directory, "episodes") if e["phase"] == "eval"]
    for line in evaluations:
        returns = [e["return"] for e in episodes if e["env_steps"] == line["env_steps"]]
        assert np.mean(returns) == pytest.approx(line["eval/return"], abs=1e-4)


def test_the_best_agent_is_kept(finished):
    evaluations = [line["eval/return"] for line in lines_of(finished.directory, "metrics") if "eval/return" in line]
    assert finished.clock.best == pytest.approx(max(evaluations), abs=1e-4)
    assert (finished.directory / "checkpoints" / "best" / "weights.safetensors").exists()


def test_provenance_tells_where_numbers_come_from(finished):
    told = json.loads((finished.directory / "provenance.json").read_text())
    assert set(told) == {"command", "started", "commit", "versions", "hardware", "seed", "protocol"}
    assert set(told["versions"]) == {"python", "torch", "numpy", "gymnasium"}
    assert set(told["hardware"]) == {"machine", "cpus", "threads", "gpu"}
    assert told["versions"]["torch"] == torch.__version__
    assert told["seed"] == 0
    assert told["protocol"]["action_repeat"] == 2


def test_the_configuration_of_a_run_is_complete(finished):
    from reverie.config import load_file

    assert load_file(finished.directory / "config.yaml") == finished.config


def test_history_is_episodes_jsonl(finished):
    assert finished.history() == lines_of(finished.directory, "episodes")


@pytest.mark.parametrize(("limit", "every"), [(100, 50), (100, 100)])
def test_an_evaluation_that_falls_on_the_end_is_made_once(make_run, tmp_path, limit, every):
    def endless():
        return CountingEnv(lengths=(30,))

    options = {"num_envs": 1, "env_steps": limit, "eval_every": every, "eval_episodes": 3}
    make_run(tmp_path / "run", endless, **options).train()
    evaluated = [e["env_steps"] for e in lines_of(tmp_path / "run", "episodes") if e["phase"] == "eval"]
    assert evaluated == [step for step in range(every, limit + 1, every) for _ in range(3)]


def test_a_finished_run_that_is_run_again_writes_nothing_twice(make_run, tmp_path):
    make_run(tmp_path / "run").train()
    before = lines_of(tmp_path / "run", "episodes")
    rows = len(make_run(tmp_path / "run").replay)
    again = make_run(tmp_path / "run")
    again.train()
    assert lines_of(tmp_path / "run", "episodes") == before
    assert len(again.replay) == rows


def test_an_evaluation_that_was_interrupted_is_made_up_for(make_run, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")

    def power_cut(screen):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "evaluate", power_cut)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    run.close()
    assert not [e for e in lines_of(tmp_path / "run", "episodes") if e["phase"] == "eval"]
    make_run(tmp_path / "run").train()
    assert len([e for e in lines_of(tmp_path / "run", "episodes") if e["phase"] == "eval"]) == 2


def test_an_instance_can_be_trained_and_is_evaluated_on_a_copy(make_run, tmp_path):
    env = CountingEnv(lengths=(10,))
    run = make_run(tmp_path / "run", env, num_envs=1)
    run.train()
    assert run.evaluation.lengths == [10, 10]
    assert env.episode == run.replay.contents()["is_first"].sum() - 1  # no episode but those in the replay


# --------------------------------------------------------------------------------------------------------- the logger


def test_a_line_holds_means_since_the_last_line(tmp_path):
    logger = Logger(tmp_path, env_steps=0, tensorboard=False)
    for value in (1.0, 2.0, 6.0):
        logger.add({"a": torch.tensor(value)})
    assert logger.write({"b": 1}, env_steps=5) == {"env_steps": 5, "b": 1, "a": 3.0}
    logger.add({"a": torch.tensor(8.0)})
    logger.write({"c": float("nan"), "d": float("inf")}, env_steps=6)
    assert lines_of(tmp_path, "metrics") == [
        {"env_steps": 5, "b": 1, "a": 3.0},
        {"env_steps": 6, "c": None, "d": None, "a": 8.0},
    ]


def test_adding_does_not_change_the_callers_tensors(tmp_path):
    logger, value = Logger(tmp_path, env_steps=0, tensorboard=False), torch.tensor(2.0)
    for _ in range(3):
        logger.add({"a": value})
    assert value.item() == 2.0


def test_lines_of_an_undone_future_are_dropped(make_run, tmp_path):
    make_run(tmp_path / "run").train()
    kept = {}
    for name in ("metrics", "episodes"):
        kept[name] = lines_of(tmp_path / "run", name)
        with open(tmp_path / "run" / f"{name}.jsonl", "a") as file:
            file.write('{"env_steps": 500, "return": 1}\n{"env_steps": 501, "retu')
    back = make_run(tmp_path / "run")
    for name in ("metrics", "episodes"):
        assert lines_of(tmp_path / "run", name) == kept[name]
        assert (tmp_path / "run" / f"{name}.jsonl").read_text().endswith("}\n")
    back.close()


def test_a_run_that_never_saved_starts_from_nothing(make_run, tmp_path):
    first = make_run(tmp_path / "run")
    first.state.logger.episode({"env_steps": 30, "return": 1.0})
    first.close()
    back = make_run(tmp_path / "run")
    assert not back.state.resumed
    assert lines_of(tmp_path / "run", "episodes") == []
    back.close()


def test_wandb_that_is_missing_is_told(make_run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install wandb"):
        make_run(tmp_path / "run", wandb=True)


# --------------------------------------------------------------------------------------------------------- stopping


def stop_after(steps, how):
    done = []

    def watch(run):
        if run.clock.env_steps >= steps and not done:
            done.append(run.clock.env_steps)
            how(run)

    return Watcher(watch)


@pytest.mark.parametrize(
    "how",
    [
        lambda run: run.stop(),
        lambda run: os.kill(os.getpid(), signal.SIGINT),
        lambda run: os.kill(os.getpid(), signal.SIGTERM),
    ],
    ids=["stop()", "Ctrl-C", "SIGTERM"],
)
def test_a_stop_ends_with_a_checkpoint_and_can_be_continued(make_run, tmp_path, how):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run = make_run(tmp_path / "run", env_steps=10_000)
    run.train(stop_after(80, how))
    assert 80 <= run.clock.env_steps < 90
    assert checkpoint.checkpoints(tmp_path / "run")[-1].name == f"step-{run.clock.env_steps:012d}"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    back = make_run(tmp_path / "run", env_steps=100)
    assert back.clock == run.clock
    back.train()
    assert back.clock.env_steps >= 100


def test_a_second_ctrl_c_ends_at_once(make_run, tmp_path, request):
    def twice(run):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))
    run = make_run(tmp_path / "run", env_steps=10_000)
    with pytest.raises(KeyboardInterrupt):
        run.train(stop_after(60, twice))
    run.close()


def test_minutes_of_training_end_a_run(make_run, tmp_path):
    run = make_run(tmp_path / "run", env_steps=10**9, minutes=0.005)
    run.train()
    assert 0.3 <= run.clock.seconds < 10
    assert checkpoint.checkpoints(tmp_path / "run")


@pytest.mark.parametrize("after", [0, 70])
def test_an_environment_that_breaks_is_told(make_run, tmp_path, after):
    run = make_run(tmp_path / "run", lambda: BrokenEnv(after=after), env_steps=1000)
    with pytest.raises(UserError, match=f"'observation' contains NaN at step {after}"):
        run.train()
    run.close()


def test_what_was_learnt_before_an_environment_breaks_is_kept(make_run, tmp_path):
    run = make_run(tmp_path / "run", lambda: BrokenEnv(after=70), env_steps=1000)
    with pytest.raises(UserError, match="NaN"):
        run.train()
    assert checkpoint.checkpoints(tmp_path / "run")
    back = make_run(tmp_path / "run", long_counting, env_steps=1000)
    assert back.clock.env_steps >= 130
    back.close()


class OwnBaseError(BaseException):
    """Neither an Exception nor the end of the program."""


@pytest.mark.parametrize("error", [OwnBaseError, GeneratorExit, asyncio.CancelledError, SystemExit])
@pytest.mark.parametrize("moment", ["step", "reset", "evaluation", "close"])
def test_what_no_exception_is_becomes_a_sentence_a_checkpoint_and_a_free_directory(make_run, tmp_path, error, moment):
    made = []

    class Leaves(CountingEnv):
        calls = 0

        def count(self, name):
            self.calls += 1
            late = self.calls > (2 if moment == "evaluation" else 45)
            if late and (name == moment or (moment == "evaluation" and self in made[2:])):
                raise error

        def step(self, action):
            self.count("step")
            return super().step(action)

        def reset(self, **options):
            self.count("reset")
            return super().reset(**options)

        def close(self):
            self.count("close")

    def make():
        made.append(Leaves(lengths=(10,)))
        return made[-1]

    run = make_run(tmp_path / "run", make, env_steps=120)
    if moment == "close":
        run.train()
    else:
        with pytest.raises(EnvironmentFailed, match=error.__name__) as caught:
            run.train()
        assert isinstance(caught.value.__cause__, error)
    assert checkpoint.checkpoints(tmp_path / "run")
    make_run(tmp_path / "run", lambda: CountingEnv(lengths=(10,)), env_steps=120).close()  # the lock was given back


# -------------------------------------------------------------------------------------------------- run directories


def test_another_tasks_directory_is_refused_and_left_as_it_was(make_run, tmp_path, files_of):
    make_run(tmp_path / "run").train()
    before = files_of(tmp_path)
    with pytest.raises(UserError) as caught:
        make_run(tmp_path / "run", **{"env.id": "custom:other", "seed": 4})
    assert "env.id = 'custom:toy' (asked for 'custom:other')" in caught.value.message
    assert "train.seed = 0 (asked for 4)" in caught.value.message
    assert files_of(tmp_path) == before


def test_many_differences_are_counted(make_run, tmp_path):
    make_run(tmp_path / "run").close()
    changes = {"gamma": 0.5, "lambda_": 0.5, "hidden_dim": 8, "layers": 2, "batch_size": 3, "seed": 1}
    with pytest.raises(UserError, match="and 2 more"):
        make_run(tmp_path / "run", **changes)


@pytest.mark.parametrize(
    "change",
    [
        {"env_steps": 200},
        {"minutes": 3.0},
        {"eval_episodes": 4},
        {"eval_every": 50},
        {"log_every": 9.0},
        {"checkpoint_every": 9.0},
        {"threads": 1},
        {"keep_checkpoints": 5},
    ],
)
def test_what_does_not_make_another_run_may_change(make_run, tmp_path, change):
    make_run(tmp_path / "run").close()
    make_run(tmp_path / "run", **change).close()


def test_a_directory_with_other_things_is_refused_and_left_as_it_was(make_run, tmp_path, files_of):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="exists and is not the directory of a run"):
        make_run(tmp_path)
    assert files_of(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_is_no_directory(make_run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is not the directory of a run"):
        make_run(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write to"):
        make_run(tmp_path / "file" / "run")


def test_an_empty_directory_is_fine(make_run, tmp_path):
    make_run(tmp_path).close()
    assert (tmp_path / "config.yaml").exists()


def test_a_failed_start_leaves_the_directory_free(make_run, tmp_path):
    """A typo in the task must not turn the directory into another task's run."""
    with pytest.raises(UserError, match="CartPole-v77"):
        make_run(tmp_path / "run", None, **{"env.id": "CartPole-v77"})
    make_run(tmp_path / "run").close()


def test_disk_backed_rings_live_in_the_run(make_run, tmp_path):
    run = make_run(tmp_path / "run", storage="disk")
    run.train()
    assert (tmp_path / "run" / "ring" / "ring-obs-observation.npy").exists()
    back = make_run(tmp_path / "run", storage="disk", env_steps=160)
    for key, value in run.replay.contents().items():
        assert len(value) == len(back.replay.contents()[key])
    back.train()


def test_pretraining_is_not_silent(make_run, tmp_path):
    """Many updates at one environment step: numbers come all the same."""
    run = make_run(tmp_path / "run", env_steps=60, pretrain=40, log_every=1e-9)
    run.train()
    updates = [line["updates"] for line in lines_of(tmp_path / "run", "metrics") if "updates" in line]
    assert {5, 20, 39} <= set(updates)


def test_the_level_to_beat_is_measured_on_whole_episodes(make_run, tmp_path):
    """RandomLengthEnv-like tasks end early by luck: the prefill alone would count the lucky episodes only."""
    run = make_run(tmp_path / "run", env_steps=60, random_baseline=True, eval_episodes=4)
    run.train()
    random = [e for e in lines_of(tmp_path / "run", "episodes") if e["phase"] == "random"]
    assert [e["env_steps"] for e in random] == [0] * 4
    run = make_run(tmp_path / "run", env_steps=120, random_baseline=True, eval_episodes=4)
    run.train()
    assert [e for e in lines_of(tmp_path / "run", "episodes") if e["phase"] == "random"] == random


def test_a_random_policy_that_takes_too_long_is_not_measured_by_halves(make_run, tmp_path, monkeypatch):
    clock = iter(range(0, 10**9, 6))
    run = make_run(tmp_path / "run", lambda: CountingEnv(lengths=(50,)), random_baseline=True)
    monkeypatch.setattr("reverie.run.loop.time.monotonic", lambda: next(clock))
    run._play_randomly(Progress(quiet=True))
    run.close()
    assert not [e for e in run.history() if e.get("phase") == "random"]


# --------------------------------------------------------------------------------------------- environments that break


def test_a_run_survives_environments_that_crash(make_run, tmp_path, capfd):
    """Their episodes are marked and do not count; the replay stays in order; the traceback is shown."""
    run = make_run(tmp_path / "run", Shaky, backend="async", env_steps=560, random_baseline=False, eval_every=0)
    run.state.evaluator.agent = lambda *_: Evaluation([0.0], [1])
    run.train()
    lines = run.history()
    crashed = [line for line in lines if line["phase"] == "crashed"]
    assert 2 <= len(crashed) <= 4  # two of each; on one core they share a process, and one may have just ended
    assert len([line for line in lines if line["phase"] == "train"]) > 20
    run.replay.check_valid()
    assert "the simulator is gone" in capfd.readouterr().err


def test_what_an_environment_tells_about_an_episode_is_kept(make_run, tmp_path):
    class Telling(RandomLengthEnv):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            ended = terminated or truncated
            return obs, reward, terminated, truncated, {"log": {"achievement/x": 0.5}} if ended else info

    run = make_run(tmp_path / "run", Telling)
    run.train()
    assert {line["achievement/x"] for line in run.history() if line["phase"] == "train"} == {0.5}


def test_the_newest_videos_of_evaluations_stay(tmp_path):
    from reverie.run.evaluation import save_video
    from reverie.run.forecast import kept_videos

    frames = [np.zeros((16, 16, 3), np.uint8)]
    for name in ("play.gif", "eval-best.gif", "dream-000000001.gif"):
        save_video(tmp_path / name, frames)
    for step in (5, 10, 999_999_999, 1_000_000_005):
        assert save_video(tmp_path / f"eval-{step:09d}.gif", frames, keep=2) == ""
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"play.gif", "eval-best.gif", "dream-000000001.gif", "eval-999999999.gif", "eval-1000000005.gif"}
    save_video(tmp_path / "eval-000000001.gif", frames)  # 0: all
    assert len(list(tmp_path.glob("eval-*.gif"))) == 4
    every = {"eval_every": 100, "env_steps": 1000}
    assert kept_videos(load_preset("debug", every)) == 10
    assert kept_videos(load_preset("debug", every | {"keep_videos": 3})) == 3
    assert kept_videos(load_preset("debug", every | {"keep_videos": 0, "env_steps": 10_000})) == 100
    assert kept_videos(load_preset("debug", every | {"video": False})) == 0


def test_one_episode_has_no_interval_and_no_warning(make_run, tmp_path, capfd):
    run = make_run(tmp_path / "run", eval_episodes=1, tensorboard=True)
    run.train()
    assert "NaN or Inf" not in "".join(capfd.readouterr())
    assert [line["eval/ci95"] for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "eval/ci95" in line] == [
        None
    ]
