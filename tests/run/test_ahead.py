"""Acting while the agent learns: rows in order and whole, the ratio exact, errors where they belong, resuming."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from toys import CountingEnv

from reverie.config.presets import load_preset
from reverie.errors import UserError
from reverie.run.ahead import Ahead
from reverie.run.loop import Run

ON = {"env.async_collect": True, "env.backend": "sync", "num_envs": 1}


def test_rows_come_in_order_and_at_most_so_many_wait():
    made = []

    def rows():
        for number in range(100):
            made.append(number)
            yield number

    ahead = Ahead(rows(), most=3)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert len(made) <= 5
    assert [next(ahead) for _ in range(50)] == list(range(1, 51))
    with ahead.standing():
        waiting, count = list(ahead.waiting()), len(made)
        time.sleep(0.1)
        assert len(made) == count == 51 + len(waiting)  # whole: what was made was taken
    assert next(ahead) == 51 + len(waiting)
    assert ahead.close()


def test_an_error_comes_after_the_last_row():
    def rows():
        yield 1
        raise ValueError("stuck")

    ahead = Ahead(rows(), most=3)
    time.sleep(0.1)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="stuck"):
        next(ahead)
    assert ahead.failed


def test_enough_is_enough():
    made = []
    ahead = Ahead(iter(lambda: made.append(0) or 0, None), most=50, enough=lambda: len(made) >= 7)
    time.sleep(0.2)
    assert len(made) == 7
    assert ahead.close()


def test_a_step_that_hangs_does_not_hold_the_end_up():
    free = threading.Event()

    def rows():
        free.wait(10)
        yield 1

    ahead = Ahead(rows(), most=1)
    time.sleep(0.05)
    assert not ahead.close(0.1)
    free.set()


def test_the_ratio_of_updates_to_steps_is_exact(make_run, tmp_path):
    run = make_run(tmp_path / "run", env_steps=300, train_ratio=0.25, prefill=50, pretrain=3, **ON)
    owed = []
    take = run._take

    def watched(item, progress):
        owed.append(run.clock.updates_due(0.25, 3))  # before a row everything that was owed has been done
        take(item, progress)

    run._take = watched
    run.train()
    assert run.clock.env_steps == 300
    assert max(owed) <= 0
    assert run.clock.updates == 3 + int(0.25 * (300 - run.clock.prefilled))
    run.replay.check_valid()


def test_rows_are_those_of_the_environment(make_run, tmp_path):
    """The replay holds each step once, in order: the observation of the toy counts."""
    run = make_run(tmp_path / "run", env_steps=200, **ON)
    run.train()
    rows = run.replay.contents()
    step, first = rows["obs/observation"][:, 1], rows["is_first"]
    assert np.array_equal(step[first], np.zeros(first.sum()))
    assert np.array_equal(np.diff(step)[~first[1:]], np.ones((~first[1:]).sum()))
    assert (~first).sum() == 200


def test_a_checkpoint_holds_every_row_that_was_made(make_run, tmp_path):
    run = make_run(tmp_path / "run", env_steps=150, checkpoint_every=0.001, **ON)
    run.train()
    assert run.state.collector.steps == run.clock.env_steps == 150
    more = make_run(tmp_path / "run", env_steps=200, checkpoint_every=0.001, **ON)
    assert more.state.resumed
    assert more.state.collector.steps == 150
    more.train()
    more.replay.check_valid()
    assert more.clock.env_steps == 200
    assert (~more.replay.contents()["is_first"]).sum() == 200


def test_the_weights_that_act_are_those_of_the_last_update(make_run, tmp_path):
    run = make_run(tmp_path / "run", env_steps=120, train_ratio=0.5, **ON)
    seen = []
    follow = run._follow_weights

    def watched():
        follow()
        acting = dict(run.state.player.world_model.named_parameters())
        own = dict(run.agent.world_model.named_parameters())
        seen.append(all((acting[name] == own[name]).all() for name in own) and acting.keys() == own.keys())
        assert run.state.player.world_model is not run.agent.world_model

    run._follow_weights = watched
    run.train()
    assert len(seen) > 10
    assert all(seen)
    assert run.state.player.world_model is run.agent.world_model  # after the loop


class Stuck(CountingEnv):
    """Raises at its 80th step."""

    def step(self, action):
        self.left = getattr(self, "left", 80) - 1
        if self.left == 0:
            raise UserError("the arm is stuck.")
        return super().step(action)


def test_what_was_learnt_before_an_environment_broke_is_kept(make_run, tmp_path):
    run = make_run(tmp_path / "run", lambda: Stuck(lengths=(1000,)), env_steps=300, **ON)
    with pytest.raises(Exception, match="stuck"):
        run.train()
    again = make_run(tmp_path / "run", env_steps=300, **ON)
    assert again.state.resumed
    assert again.clock.env_steps >= 79
    again.close()


def test_it_is_not_for_deterministic_runs():
    with pytest.raises(UserError, match=r"env\.async_collect.*train\.deterministic"):
        load_preset("debug", {"env.async_collect": True, "train.deterministic": True})


class Slow(CountingEnv):
    """A step takes 20 ms."""

    def step(self, action):
        time.sleep(0.02)
        return super().step(action)


def test_slow_environment_and_slow_learner_do_not_wait_for_each_other(tmp_path, monkeypatch):
    """20 ms a step, and an update of 20 ms for each: in turns 40, together little more than 20."""

    def seconds(on):
        config = load_preset("debug", {"env.id": "custom:toy", "tensorboard": False, "video": False, "prefill": 40,
                                       "env_steps": 100, "train_ratio": 1.0, "pretrain": 0, "eval_episodes": 1,
                                       "random_baseline": False} | ON | {"env.async_collect": on})  # fmt: skip
        run = Run(config, tmp_path / str(on), lambda: Slow(lengths=(10,)))
        monkeypatch.setattr(run.agent, "update", lambda batch: time.sleep(0.02) or {})
        begin = time.perf_counter()
        monkeypatch.setattr(run, "evaluate", lambda progress: None)
        run.train()
        return time.perf_counter() - begin

    assert seconds(True) < 0.85 * seconds(False)
