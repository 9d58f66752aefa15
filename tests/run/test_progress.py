"""What a run says on its way: the time that is left, the share of evaluations, returns that are not old, the best."""

import time

import numpy as np
import pytest
from toys import CountingEnv, long_counting

from reverie import checkpoint, cli
from reverie.config.presets import load_preset
from reverie.run.clock import Clock
from reverie.run.evaluation import Evaluation, best_beyond_noise, evaluations_due, logged_evaluations
from reverie.run.logger import read_lines
from reverie.run.loop import Run
from reverie.run.progress import LEAVE, MEASURED, Progress, achieved, clock_time, evaluation_seconds, terminal_line


class Heard(Progress):
    """Keeps what is said, and every progress line."""

    def __init__(self, **options):
        super().__init__(every=0, **options)
        self.lines = []

    def say(self, text):
        self.lines.append(text)


def logged(directory, name="episodes"):
    return read_lines(directory / f"{name}.jsonl")


def scores_in_turn(run, *results):
    """Its evaluations have these scores, one list after the other; -> how many were played so far, as a list."""
    played = []

    def agent(*_):
        played.append(results[len(played) % len(results)])
        return Evaluation(list(map(float, played[-1])), [5] * len(played[-1]))

    run.state.evaluator.agent = agent
    return played


# ------------------------------------------------------------------------------------------------- time of evaluations


def test_evaluations_have_their_share_of_all_time_and_none_of_the_training_time():
    clock = Clock(seconds=3.0, eval_seconds=2.0, spent={"env": 1.0, "replay": 0.0, "update": 2.0})
    assert clock.shares() == pytest.approx({"env": 0.2, "replay": 0.0, "update": 0.4, "eval": 0.4})
    told = clock.speeds()
    assert (told["seconds"], told["time/update"]) == (3.0, pytest.approx(2 / 3))
    with clock.evaluating():
        time.sleep(0.02)
    assert clock.seconds == 3.0
    assert 2.02 <= clock.eval_seconds < 3
    assert clock.next_eval_seconds == pytest.approx(clock.eval_seconds - 2.0)
    with clock.evaluating(played=False):
        pass
    assert clock.next_eval_seconds > 0.01


def test_minutes_count_training_and_not_evaluations(make_run, tmp_path):
    def slow(*_):
        time.sleep(0.2)
        return Evaluation([1.0, 1.0], [5, 5])

    run, screen = make_run(tmp_path / "run", env_steps=10**9, minutes=0.005, eval_every=40), Heard()
    run.state.evaluator.agent = slow
    run.train(screen)
    assert run.clock.seconds >= 0.3  # all of train.minutes
    assert run.clock.eval_seconds >= 0.4
    assert run.clock.seconds == pytest.approx(sum(run.clock.spent.values()))
    (last,) = [line for line in screen.lines if line.startswith("reached")]
    assert f"{run.clock.seconds:.0f} s of training and {run.clock.eval_seconds:.0f} s of evaluations" in last
    lines = [line for line in logged(tmp_path / "run", "metrics") if "time/env" in line]
    sums = [line["time/env"] + line["time/replay"] + line["time/update"] for line in lines]
    assert sums == pytest.approx([1] * len(sums), abs=1e-5)  # of training time, as ever
    back = make_run(tmp_path / "run", env_steps=10**9, minutes=0.005, eval_every=40)
    assert back.clock == run.clock
    back.close()


def test_the_line_shows_the_share_of_evaluations(make_run, tmp_path):
    run, screen = make_run(tmp_path / "run", eval_every=40), Heard()
    run.train(screen)
    lines = [line for line in screen.lines if "eta" in line]
    shares = [{part: int(line.split(f" {part} ")[-1].split("%")[0]) for part in ("env", "eval")} for line in lines]
    assert shares[0]["eval"] == 0 < shares[-1]["eval"]
    assert f"eval {run.clock.shares()['eval']:.0%}  eta 0:00" in lines[-1]


@pytest.mark.parametrize(
    ("every", "since", "end", "at_end", "count"),
    [
        (50, 0, 200, True, 4),  # the one at 200 is that of the end
        (50, 0, 201, True, 5),
        (50, 100, 200, True, 2),
        (0, 0, 200, True, 1),
        (50, 200, 200, False, 0),
        (0, 200, 200, False, 0),
        (50, 200, 200, True, 1),
        (50, 250, 200, False, 0),  # continued with fewer steps
    ],
)
def test_the_evaluations_to_come_are_counted(every, since, end, at_end, count):
    assert evaluations_due(every, since, end, at_end=at_end) == count


@pytest.mark.parametrize(("every", "limit"), [(50, 200), (60, 200), (0, 120), (33, 100)])
def test_as_many_are_made(make_run, tmp_path, every, limit):
    run = make_run(tmp_path / "run", num_envs=1, eval_every=every, env_steps=limit, train_ratio=1)
    scores_in_turn(run, [1])
    run.train()
    assert len(logged_evaluations(logged(tmp_path / "run"))) == evaluations_due(every, 0, limit)


@pytest.fixture
def halfway(make_run, tmp_path):
    """A run at step 100 of 200, a second for ten steps, evaluated now and then every 50 steps; its screen."""
    run = make_run(tmp_path / "run", env_steps=200, eval_every=50, eval_episodes=4)
    run.state.evaluated_at = 100
    run.clock.env_steps, run.clock.prefilled, run.clock.updates = 100, 50, 5
    run.clock.spent["env"] = run.clock.seconds = 10.0
    yield run.state, Progress(quiet=True)
    run.close()


def test_the_time_left_has_the_evaluations_in_it(halfway):
    state, screen = halfway
    assert screen.seconds_left(state) == pytest.approx(10.0)  # how long one takes is not known
    state.lengths = [20, 40]
    assert evaluation_seconds(state) == pytest.approx(4 * 30 * 0.1)
    assert screen.seconds_left(state) == pytest.approx(10.0 + 2 * 12.0)
    state.clock.next_eval_seconds = 7.0  # the last one
    assert screen.seconds_left(state) == pytest.approx(10.0 + 2 * 7.0)
    assert screen._status(state)[1].endswith("eta 0:24")
    state.evaluated_at = -1  # none yet: the one that is due now, one at 150, one at the end
    assert screen.seconds_left(state) == pytest.approx(10.0 + 4 * 7.0)


def test_with_minutes_only_the_evaluations_until_then_are_to_come(halfway):
    state, screen = halfway
    state.clock.next_eval_seconds = 7.0
    object.__setattr__(state.config.train, "minutes", 14 / 60)  # four seconds, forty steps: the one at the end
    assert screen.seconds_left(state) == pytest.approx(4.0 + 7.0)
    state.clock.env_steps, state.clock.seconds, state.evaluated_at = 140, 14.0, 140
    assert screen.seconds_left(state) == pytest.approx(0.0)


def test_before_it_learns_the_forecast_says_how_long_a_run_takes(make_run, tmp_path):
    """The pace of steps without learning says nothing about the rest."""
    run, screen = make_run(tmp_path / "run", env_steps=5000, prefill=1000, forecast=True), Heard()
    state, forecast = run.state, run.state.forecast
    screen._last = 1e18
    run.clock.env_steps, run.clock.seconds = 500, 0.5
    screen.tick(state)
    assert screen.seconds_left(state) == pytest.approx(forecast.seconds(4500, forecast.idle - 500), rel=1e-6)
    run.clock.prefilled, run.clock.updates, run.clock.env_steps, run.clock.seconds = 1000, 1, 1000, 1.0
    screen.tick(state)
    run.clock.updates, run.clock.env_steps, run.clock.seconds = 40, 1000 + 2 * MEASURED, 1.0 + MEASURED
    screen.tick(state)
    assert screen.seconds_left(state) == pytest.approx((4000 - 2 * MEASURED) / 2)
    run.close()


def test_the_random_policy_says_how_long_evaluations_take(make_run, tmp_path):
    screen = Heard()
    run = make_run(tmp_path / "run", random_baseline=True, eval_every=30, env_steps=120)
    run.state.evaluator.random = lambda stopped: time.sleep(0.05) or Evaluation([1.0, 3.0], [10, 30])
    run.train(screen)
    at = next(i for i, line in enumerate(screen.lines) if line.startswith("random policy: return 2.000"))
    assert screen.lines[at + 1].startswith(
        "4 evaluations will take about 0 s with episodes as long as these (20 steps)"
    )
    assert run.clock.eval_seconds >= 0.05


# ---------------------------------------------------------------------------------------- the same evaluation, once


def test_an_agent_that_has_not_changed_does_not_play_again(make_run, tmp_path):
    options = {"num_envs": 1, "pretrain": 1, "eval_every": 50, "env_steps": 103}
    run, screen = make_run(tmp_path / "run", train_ratio=0.01, **options), Heard()
    played = scores_in_turn(run, [1, 2], [3, 4])
    run.train(screen)
    assert len(played) == 1
    evaluations = logged_evaluations(logged(tmp_path / "run"))  # what reads the end of a run finds it there
    assert list(evaluations) == [50, 100, 103]
    assert all(result.scores == [1.0, 2.0] for result in evaluations.values())
    assert sum("as before: no update since the last one" in line for line in screen.lines) == 2
    changed = make_run(tmp_path / "changed", train_ratio=0.5, **options)
    assert len(scores_in_turn(changed, [1, 2])) == 0
    played = scores_in_turn(changed, [1, 2])
    changed.train()
    assert len(played) == 3


def test_an_agent_whose_inputs_scale_has_moved_plays_again(make_run, tmp_path):
    options = {"num_envs": 1, "pretrain": 1, "eval_every": 50, "env_steps": 103, "vector_transform": "running"}
    run = make_run(tmp_path / "run", train_ratio=0.01, **options)
    played = scores_in_turn(run, [1, 2])
    run.train()
    assert len(played) == 3


def test_an_evaluation_that_no_checkpoint_followed_is_made_again(make_run, tmp_path, monkeypatch):
    """Its lines are cut when the run is continued, so it must not count as made."""
    run = make_run(tmp_path / "run")
    save, saved = run.save, []

    def dies(**options):
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt
        save(**options)

    monkeypatch.setattr(run, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert len(logged_evaluations(logged(tmp_path / "run"))) == 1
    back = make_run(tmp_path / "run")
    assert (back.state.evaluated_at, back.evaluation) == (-1, None)
    played = scores_in_turn(back, [1, 2])
    back.train()
    assert len(played) == 1
    assert list(logged_evaluations(logged(tmp_path / "run"))) == [back.clock.env_steps]
    again = make_run(tmp_path / "run")
    played = scores_in_turn(again, [1, 2])
    again.train()
    assert played == []


# -------------------------------------------------------------------------------------------------------- the best one


def evaluations(*scores):
    return {100 * (i + 1): Evaluation(list(map(float, each)), [1] * len(each)) for i, each in enumerate(scores)}


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        (([90, 100, 110], [-50, -40, -30]), 100),
        (([90, 100, 110], [95, 105, 115]), None),  # the newest is the best
        (([90, 100, 110], [80, 95, 110]), None),  # noise
        (([0, 1, 2], [90, 100, 110], [10, 20, 30]), 200),
        (([100], [0]), None),  # one episode: no interval
        (([100, 100], [100, 100], [99, 99]), 100),  # the first of equals, which is the one that is kept
        (([1, 2],), None),
        ((), None),
    ],
)
def test_the_best_is_named_when_it_beats_the_newest_beyond_noise(scores, best):
    found = best_beyond_noise(evaluations(*scores))
    assert (found.best_at if found else None) == best
    if found:
        assert (found.last_at, found.last.scores) == (100 * len(scores), list(map(float, scores[-1])))


@pytest.mark.parametrize(("count", "episodes"), [(2, 10), (15, 10), (50, 10), (15, 20)])
def test_luck_is_rarely_called_better(count, episodes):
    """The best of fifty equal agents is beyond the plain interval in a third of all runs."""
    rng = np.random.default_rng(0)
    runs = [evaluations(*rng.normal(size=(count, episodes))) for _ in range(400)]
    assert np.mean([best_beyond_noise(run) is not None for run in runs]) < 0.08


def test_the_end_names_the_best_checkpoint_and_how_to_use_it(make_run, tmp_path):
    run, screen = make_run(tmp_path / "run", num_envs=1, eval_every=60, env_steps=120, train_ratio=1), Heard()
    scores_in_turn(run, [97, 107, 117], [-53, -43, -33])
    run.train(screen)
    (at,) = (i for i, line in enumerate(screen.lines) if line.startswith("best "))
    expected = "the agent of step 60 beats the newest beyond noise: return 107.000 ± 11.316, now -43.000 ± 11.316"
    assert expected in screen.lines[at]
    best = tmp_path / "run" / "checkpoints" / "best"
    assert screen.lines[at + 1].strip() == f"in Python reverie.load_player('{best}')"  # the task is a function
    assert checkpoint.find_agent(best) == best
    again = Heard()
    make_run(tmp_path / "run", num_envs=1, eval_every=60, env_steps=120, train_ratio=1).train(again)
    assert screen.lines[at] in again.lines


def test_the_best_is_played_by_the_command_that_is_named(tmp_path, capsys):
    """Where the task has an id."""
    settings = {"env.id": "CartPole-v1", "eval_every": 60, "env_steps": 120, "train_ratio": 1, "tensorboard": False}
    run, screen = Run(load_preset("debug", settings | {"video": False}), tmp_path / "run"), Heard()
    scores_in_turn(run, [97, 107, 117], [3, 4, 5])
    run.train(screen)
    (line,) = (line for line in screen.lines if "reverie eval" in line)
    command = line.split("reverie ")[1].split(",")[0]
    assert command == f"eval {tmp_path / 'run' / 'checkpoints' / 'best'}"
    assert cli.main([*command.split(), "--episodes", "1", "--video", str(tmp_path / "video.gif")]) == 0
    assert "CartPole-v1: return" in capsys.readouterr().out


@pytest.mark.parametrize("end", ["newest", "signal"])
def test_no_other_checkpoint_is_named(make_run, tmp_path, end):
    class Stops(Heard):
        def evaluated(self, run, result, **options):
            if end == "signal" and run.clock.env_steps > 80:
                run.stop()

    run, screen = make_run(tmp_path / "run", num_envs=1, eval_every=40, env_steps=120, train_ratio=1), Stops()
    scores_in_turn(run, [97, 107, 117], *([[-53, -43, -33]] if end == "signal" else []))
    run.train(screen)
    assert not [line for line in screen.lines if line.startswith("best ")]


# -------------------------------------------------------------------------------------------- returns that are not old


def once_then_long():
    return CountingEnv(lengths=(30, 10, 1000), terminal=(True,))


def test_a_return_is_not_shown_as_new_while_no_episode_ends(make_run, tmp_path):
    options = {"num_envs": 1, "env_steps": 150, "train_ratio": 1, "log_every": 1e-9}
    run, screen = make_run(tmp_path / "run", once_then_long, **options), Heard()
    scores_in_turn(run, [1, 2])
    run.train(screen)
    steps = {line.split("step ")[1].split(" ")[0]: line for line in screen.lines if "eta" in line}
    assert "return - (unfinished: 210.00 after 20 steps)" in steps["20"]
    assert "return 465.00 eval" in steps["30"]
    assert "return 760.00 eval" in steps["60"]  # twenty steps of the third: less than the longest that ended
    sum_of_50 = sum(200 + k for k in range(1, 51))
    assert f"return 760.00 (unfinished: {sum_of_50:.2f} after 50 steps) eval" in steps["90"]
    lines = [line for line in logged(tmp_path / "run", "metrics") if "updates" in line]
    assert [line["env_steps"] for line in lines if "episode/return" in line] == [30, 40]
    assert [line["episode/return"] for line in lines if "episode/return" in line] == [465.0, 760.0]


def test_a_continued_run_knows_when_the_last_episode_ended(make_run, tmp_path):
    run = make_run(tmp_path / "run", once_then_long, num_envs=1, env_steps=120, train_ratio=1)
    run.train()
    assert (run.state.lengths, run.state.ended_at) == ([30, 10], 40)
    back = make_run(tmp_path / "run", once_then_long, num_envs=1, env_steps=200, train_ratio=1)
    assert (back.state.lengths, back.state.ended_at) == ([30, 10], 40)
    assert back.state.unfinished() == run.state.unfinished()
    back.close()


def test_episodes_of_one_length_are_never_called_unfinished(make_run, tmp_path):
    run, screen = make_run(tmp_path / "run", long_counting, env_steps=150), Heard()
    run.train(screen)
    ends = min(e["env_steps"] for e in run.history() if e["phase"] == "prefill")
    late = [line for line in screen.lines if "eta" in line and int(line.split("step ")[1].split(" ")[0]) >= ends]
    assert late
    assert not [line for line in late if "unfinished" in line]


# ------------------------------------------------------------------------------------- terminals, narrow ones, and none


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_the_line_of_progress_fits_the_terminal(halfway, width):
    state, screen = halfway
    state.recent = [12.5] * 20
    screen.metrics = {"world_model/kl": 5432.1, "world_model/reward_loss": 0.0123, "actor/entropy": 1.5}
    line = terminal_line(0.5, screen._parts(state), width).plain
    assert len(line) < width
    assert "\n" not in line
    assert "50%" in line
    assert "step 100" in line
    assert ("return 12.50" in line and "eta 0:10" in line) == (width >= 40)
    assert ("kl 5,432" in line) == (width >= 120)  # no exponent
    assert ("env 100%" in line) == (width >= 200)


def test_every_part_of_the_line_but_the_steps_can_be_left_out(halfway):
    state, screen = halfway
    assert {name for name, _ in screen._parts(state)} - set(LEAVE) == {"step"}


def test_a_log_file_gets_a_line_each_twentieth_of_the_run(make_run, tmp_path, capsys):
    run = make_run(tmp_path / "run", num_envs=1, env_steps=400, train_ratio=0.02, eval_every=0)
    run.train(Progress())
    shown = [line.split() for line in capsys.readouterr().err.splitlines() if " eta " in line]
    assert [int(words[0].removesuffix("%")) for words in shown] == list(range(0, 101, 5))
    more = make_run(tmp_path / "run", num_envs=1, env_steps=800, train_ratio=0.02, eval_every=0)
    more.train(Progress())
    again = [line.split()[0] for line in capsys.readouterr().err.splitlines() if " eta " in line]
    assert again[0] == "50%"
    assert again[-1] == "100%"
    assert len(again) == 11


def test_there_is_no_ratio_before_a_step_has_earned_an_update(halfway):
    state, screen = halfway
    train, clock = state.config.train, state.clock
    object.__setattr__(train, "pretrain", 100)
    clock.updates, clock.prefilled = 17, 100
    assert achieved(state) == "pretraining was at update 17 of 100"
    assert "pretraining step 100 update 17 of 100" in screen._status(state)[1]
    clock.updates, clock.env_steps = 110, 200
    assert achieved(state) == f"0.1 updates per step (asked for {train.train_ratio:g})"
    assert "pretraining" not in screen._status(state)[1]
    clock.updates = clock.prefilled = 0
    assert achieved(state) == "no updates yet"
    assert screen._status(state)[1].startswith("prefill step 200 update 0  ")


def test_the_time_left_has_hours():
    assert [clock_time(x) for x in (0, 24, 725, 10859)] == ["0:00", "0:24", "12:05", "3:00:59"]
