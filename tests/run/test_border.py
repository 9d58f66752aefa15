"""Runs on environments that break: what was learnt is kept, and what a run does not need never ends it."""

import os
import signal
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from odd_envs import Odd, cancel, fail, late, leave, nan, panic
from toys import CountingEnv, long_counting

import reverie
from reverie import UserError, checkpoint
from reverie.cli import main
from reverie.run.logger import read_lines
from reverie.run.progress import Progress
from reverie.run.resume import save_run
from reverie.run.tasks import require_copies_apart

BOTH = pytest.mark.parametrize("backend", ["sync", "async"])
QUICK = {"random_baseline": False, "eval_episodes": 2, "num_envs": 2, "forecast": False}


def saved(directory):
    return [int(path.name.removeprefix("step-")) for path in checkpoint.checkpoints(directory)]


class Lines(Progress):
    """A quiet screen that keeps its lines and calls a function at each step."""

    def __init__(self, watch=lambda run: None):
        super().__init__(quiet=True)
        self.lines, self.watch = [], watch

    def say(self, text):
        self.lines.append(text)

    def tick(self, run):
        self.watch(run)


# ---------------------------------------------------------------------------------------- what was learnt is kept


@BOTH
@pytest.mark.parametrize("fault", [nan, fail, panic, cancel, leave])
def test_an_environment_that_breaks_late_costs_nothing(make_run, tmp_path, backend, fault):
    run = make_run(tmp_path / "run", lambda: Odd(since=40, step=fault), backend=backend, **QUICK, env_steps=1000)
    run.state.envs.max_restarts = 0  # of workers
    words = "NaN at step 41|the simulator is gone|PanicException|CancelledError|SystemExit"
    with pytest.raises(UserError, match=words):
        run.train()
    assert saved(tmp_path / "run") == [80 if backend == "sync" or fault is nan else run.clock.env_steps]
    back = make_run(tmp_path / "run", long_counting, backend=backend, **QUICK, env_steps=1000)
    assert back.clock.env_steps >= 80
    back.close()


@pytest.mark.parametrize("own", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: None])
@pytest.mark.parametrize(("since", "phase"), [(5, "prefill"), (40, "training"), (60, "evaluation")])
def test_an_environment_that_handles_signals_itself_does_not_keep_the_run_from_stopping(
    make_run, tmp_path, own, since, phase
):
    """As simulators with a loop of their own do when they start."""
    steps = []

    def step(env, *result):
        steps.append(env)
        if len(steps) == since:
            signal.signal(signal.SIGTERM, own)
        if len(steps) == since + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    more = {"eval_every": 50} if phase == "evaluation" else {"eval_every": 0}
    screen = Lines()
    run = make_run(
        tmp_path / "run", lambda: Odd(step=step), **QUICK | {"num_envs": 1} | more, prefill=20, env_steps=999
    )
    run.train(screen)
    assert run.state.stopping.signal == "SIGTERM"
    assert run.clock.env_steps < 80
    assert saved(tmp_path / "run") == [run.clock.env_steps]
    assert any("the environment handles SIGTERM itself" in line for line in screen.lines)


def test_a_hang_and_sigterm_with_workers_cost_nothing(make_run, tmp_path):
    run = make_run(
        tmp_path / "run",
        lambda: Odd(since=30, step=lambda *_: time.sleep(100)),
        backend="async",
        **QUICK,
        env_steps=1000,
    )
    run.state.stopping.patience = 0.2

    def ask(state):
        if state.clock.env_steps == 60 and not timers:
            timers.append(threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]))
            timers[0].start()

    timers = []
    run.train(Lines(ask))
    assert run.state.stopping.signal == "SIGTERM"
    assert saved(tmp_path / "run") == [60]


def test_a_worker_that_dies_before_a_checkpoint_costs_an_episode(make_run, tmp_path, capfd):
    run = make_run(tmp_path / "run", long_counting, backend="async", **QUICK, env_steps=120)
    done = []

    def kill(state):
        if state.clock.env_steps > 80 and not done:
            done.append(1)
            for worker in state.envs.workers:
                os.kill(worker.process.pid, signal.SIGKILL)
                worker.process.wait()
            save_run(state, wait=True)

    run.train(Lines(kill))
    assert run.clock.env_steps >= 120
    assert "killed by SIGKILL" in capfd.readouterr().err


def test_a_worker_that_dies_while_it_plays_again_begins_new_episodes(make_run, tmp_path):
    class Once(CountingEnv):
        def step(self, action):
            if (tmp_path / "die").exists():
                os._exit(1)
            return super().step(action)

    def make():
        return Once(lengths=(1000,))

    make_run(tmp_path / "run", make, backend="async", **QUICK, env_steps=55, eval_every=0).train(Lines())
    (tmp_path / "die").touch()
    run = make_run(tmp_path / "run", make, backend="async", **QUICK, env_steps=90)
    assert "could not be played again" in run.state.notes[0]
    (tmp_path / "die").unlink()
    run.train()
    run.replay.check_valid()
    assert run.clock.env_steps >= 90


@pytest.mark.parametrize("fault", [nan, fail, panic, cancel, leave])
def test_an_evaluation_that_breaks_does_not_cost_what_was_learnt(make_run, tmp_path, fault):
    made = []

    def make():
        made.append(Odd(step=fault) if len(made) == 2 else Odd())  # the third one is made for evaluation
        return made[-1]

    run = make_run(tmp_path / "run", make, **QUICK, env_steps=1000, eval_every=70)
    with pytest.raises(
        UserError, match=r"NaN|the simulator is gone|out of bounds|a task of the environment|window was closed"
    ):
        run.train()
    assert saved(tmp_path / "run") == [run.clock.env_steps]
    assert run.clock.env_steps >= 70


def test_an_environment_that_breaks_at_once_leaves_a_run_that_can_be_repeated(make_run, tmp_path):
    broken = [True]

    class Starts(CountingEnv):
        resets = 0

        def reset(self, **options):
            self.resets += 1
            return fail() if self.resets == 2 and broken else super().reset(**options)

    def make():
        return Starts(lengths=(10,))

    with pytest.raises(UserError, match="the simulator is gone"):
        make_run(tmp_path / "run", make, **QUICK).train()
    broken.clear()
    run = make_run(tmp_path / "run", make, **QUICK)
    run.train()
    assert run.clock.env_steps >= 120


# -------------------------------------------------------------------------------------- infos, drawing, closing


@BOTH
def test_closing_that_fails_is_noted_and_nothing_is_lost(make_run, tmp_path, backend, capfd):
    run, lines = make_run(tmp_path / "run", lambda: Odd(close=fail), backend=backend, **QUICK), Lines()
    assert run.train(lines) is run.agent
    assert (
        sum("close of the environment raises RuntimeError (the simulator is gone)" in line for line in lines.lines) == 1
    )
    assert not run.state.lock.held
    assert "Traceback" not in capfd.readouterr().err


@BOTH
def test_what_is_drawn_never_ends_a_run(make_run, tmp_path, backend):
    drawn = iter([lambda env: None, fail, late, lambda env: np.zeros((2, 2, 2, 2))])
    kinds = list(drawn) if backend == "sync" else [late]
    for number, render in enumerate(kinds):
        options = QUICK | {"video": True, "backend": backend, "env_steps": 60}
        run, lines = make_run(tmp_path / str(number), lambda render=render: Odd(render=render), **options), Lines()
        run.train(lines)
        assert run.evaluation.frames == []
        assert any(line.startswith("no video: render ") for line in lines.lines)


def test_images_of_any_size_and_kind_become_one_video(make_run, tmp_path):
    drawn = [
        np.zeros((32, 40), np.uint8),
        np.ones((16, 16, 3)),
        np.zeros((3, 20, 20), np.int64),
        np.zeros((9, 9, 4), np.uint8),
    ]
    options = QUICK | {"video": True, "env_steps": 60}
    run = make_run(tmp_path / "run", lambda: Odd(render=lambda env: drawn[env.at % 4]), **options)
    run.train(Lines())
    assert {frame.shape for frame in run.evaluation.frames} == {(32, 40, 3)}
    assert list((tmp_path / "run" / "videos").glob("*.gif"))


@BOTH
def test_the_infos_of_a_run_are_the_environments_own(make_run, tmp_path, backend):
    def step(env, obs, reward, terminated, truncated, info):
        legal = {"legal": np.arange(env.at % 3), "goal": None if env.at % 2 else 1, "crashed": terminated}
        log = {"success": 0.5, "return": -7, "phase": 3, "env_steps": 1, "word": "door", "deep": {"x": 1}}
        return obs, reward, terminated, truncated, legal | ({"log": log} if env.seed % 2 else {"log": "text"})

    run, lines = make_run(tmp_path / "run", lambda: Odd(step=step), backend=backend, **QUICK), Lines()
    run.train(lines)
    episodes = [line for line in run.history() if line["phase"] in ("prefill", "train")]
    assert len(episodes) >= 10
    assert all(line["length"] == 10 and line["return"] > 0 for line in episodes)
    assert {line.get("success") for line in episodes} == {0.5, None}
    assert not any("word" in line or "deep" in line for line in episodes)
    assert len([line for line in lines.lines if "info['log']" in line]) == 3  # each once
    assert len(run.evaluation.scores) == 2


def test_an_evaluation_counts_episodes_that_call_themselves_crashed(make_run, tmp_path):
    make_run(tmp_path / "run", long_counting, **QUICK).train()
    env = lambda: Odd(step=lambda e, o, r, end, cut, i: (o, r, end, cut, {"crashed": end}))  # noqa: E731
    result = reverie.load(tmp_path / "run", env=env).evaluate(3)
    assert result.lengths == [10] * 3


# ---------------------------------------------------------------------------------------------- one object, two users

HANDLES = []


class Remote(CountingEnv):
    """Holds the number of a simulator elsewhere: all copies share it."""

    def __init__(self):
        super().__init__(lengths=(10,))
        HANDLES.append(0)
        self.handle = len(HANDLES) - 1

    at = property(
        lambda self: HANDLES[self.handle] if "handle" in vars(self) else 0,
        lambda self, value: HANDLES.__setitem__(self.handle, value) if "handle" in vars(self) else None,
    )

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, 1.0, *rest

    def _observe(self, action):
        return np.array([0, self.at, action, 0], np.float32)


class OldTask:
    """An old gym environment, which is no gymnasium.Env."""

    observation_space, action_space = spaces.Box(-1e9, 1e9, (1,), np.float32), spaces.Discrete(2)
    closed = 0

    def reset(self):
        self.t = 0
        return np.zeros(1, np.float32)

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t >= 10, None

    def close(self):
        OldTask.closed += 1


def test_one_object_for_training_and_evaluation_is_refused_before_a_step(make_run, tmp_path):
    env = long_counting()
    for make in (lambda: env, lambda: gym.wrappers.TimeLimit(env, 5)):
        with pytest.raises(UserError, match="returned the same CountingEnv twice"):
            make_run(tmp_path / "run", make, num_envs=1, random_baseline=False)
    assert env.episode <= 0
    assert not (tmp_path / "run").exists()


def test_an_old_environment_of_ones_own_is_an_instance_too(make_run, tmp_path):
    with pytest.raises(UserError, match="cannot be stepped as 2"):
        make_run(tmp_path / "run", OldTask(), num_envs=2)
    run = make_run(tmp_path / "run", OldTask(), num_envs=1, random_baseline=False, eval_every=40)
    run.train()
    rows = run.replay.contents()
    now, first = rows["obs/observation"][:, 0], rows["is_first"]
    assert all(first[1:] | (np.diff(now) == 1))  # no transition that never happened
    del run
    assert OldTask.closed == 0


def test_copies_that_share_a_simulator_are_refused(make_run, tmp_path):
    with pytest.raises(UserError, match="stepping one changes the other"):
        make_run(tmp_path / "run", Remote(), num_envs=1)
    config = make_run(tmp_path / "run", long_counting(), num_envs=1).config
    require_copies_apart(config, Remote)  # a function that makes them is asked for


def test_an_evaluation_does_not_close_what_belongs_to_the_caller(make_run, tmp_path):
    run = make_run(tmp_path / "run", OldTask(), num_envs=1, random_baseline=False)
    run.train()
    agent = reverie.load(tmp_path / "run", env=OldTask())
    agent.evaluate(1)
    del agent, run
    assert OldTask.closed == 0


def test_environments_for_evaluation_with_other_spaces_are_refused(make_run, tmp_path):
    made = []

    def make():
        made.append(1)
        return CountingEnv(lengths=(10,), actions=2 if len(made) > 2 else 3)

    with pytest.raises(UserError, match="made for evaluation has other spaces"):
        make_run(tmp_path / "run", make, **QUICK)


# ------------------------------------------------------------------------------------------------ the command line

FILE = """
import gymnasium as gym, numpy as np
class Bad(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)
    def __init__(self, fault="", render_mode=None):
        self.fault, self.t = fault, 0
        if fault == "make": raise OSError("no port")
    def reset(self, *, seed=None, options=None):
        if self.fault == "reset": raise OSError("no port")
        return np.zeros(3, np.float32) if self.fault == "alone" else (np.zeros(3, np.float32), {})
    def step(self, action):
        self.t += 1
        if self.fault == "step" and self.t > 25: raise OSError("no port")
        return (np.zeros(3, np.float32), 1.0, False, {}, {}) [: 4 if self.fault == "four" else 5][:3] + (
            ({},) if self.fault == "four" else (self.t % 10 == 0, {}))
for name in ("make", "reset", "alone", "step", "four"):
    gym.register(f"{name}-v0", entry_point=Bad, kwargs={"fault": name}, max_episode_steps=50)
"""


@BOTH
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("make", "making 'bad_tasks:make-v0' raises OSError (no port)"),
        ("reset", "reset of the environment raises OSError (no port) in"),
        ("alone", "reset returns a ndarray, not (observation, info)"),
        ("step", "OSError"),
        ("four", "step returns 4 values, as in the old gym, not 5 at step 1"),
    ],
)
def test_the_command_line_says_one_sentence(in_tmp, monkeypatch, capfd, fault, words, backend):
    if backend == "async" and fault != "four":
        pytest.skip("the same place as in this process")
    (in_tmp / "bad_tasks.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(in_tmp))
    settings = [f"{name}={value}" for name, value in QUICK.items()]
    run = ["--run", "run", *settings, "tensorboard=false", "prefill=60", "env_steps=400", f"env.backend={backend}"]
    assert main(["train", "--preset", "debug", "--env", f"bad_tasks:{fault}-v0", *run]) == 2
    error = capfd.readouterr().err
    assert words in error
    assert "error: " in error
    if fault == "step":
        assert saved(in_tmp / "run")
    if backend == "sync":
        assert "Traceback" not in error
    assert not [line for line in read_lines(in_tmp / "run" / "episodes.jsonl") if "Traceback" in str(line)]
