"""Callbacks: when they are called, how they stop a run, what an error in one leaves behind."""

import builtins
import os
import queue
import signal
import sys
import traceback
import types

import numpy as np
import pytest
import torch
from test_api import TINY, usual_signals  # noqa: F401  a fixture
from toys import EchoEnv

import reverie
from reverie import UserError, checkpoint
from reverie.insight.doctor import diagnose
from reverie.insight.findings import Finding, Findings
from reverie.run.callbacks import (
    HOOKS,
    LogTo,
    PublishTo,
    ScheduleSetting,
    StopAtReturn,
    StopWithoutImprovement,
    TimeLimit,
    callbacks_of,
)
from reverie.run.curves import table_of
from reverie.run.evaluation import Evaluation
from reverie.run.html import html_table
from reverie.run.lines import read_lines
from reverie.run.progress import Progress

SETTINGS = TINY | {"prefill": 20, "env_steps": 60, "eval_every": 20, "deterministic": True}
SETTINGS |= {"log_steps": 20, "checkpoint_every": 1e6, "num_envs": 2, "backend": "sync"}


def make():
    return EchoEnv()


def agent_of(directory, **settings):
    return reverie.Dreamer(make, preset="debug", run=directory, **SETTINGS | settings)


class Recorder(reverie.Callback):
    """Every call, with the step at which it came."""

    def __init__(self, stop_at=None):
        self.calls, self.stop_at = [], stop_at

    def _note(self, hook, *values):
        self.calls.append((hook, self.training.env_steps, *values))
        return False if self.stop_at == (hook, self.training.env_steps) else None

    def on_start(self):
        return self._note("on_start")

    def on_step(self, row):
        return self._note("on_step", row["reward"].shape)

    def on_update(self, metrics):
        return self._note("on_update", float(metrics["world_model/loss"]))

    def on_metrics(self, numbers):
        return self._note("on_metrics", numbers["env_steps"])

    def on_episode(self, episode):
        return self._note("on_episode", episode.length)

    def on_evaluation(self, evaluation):
        return self._note("on_evaluation", evaluation.mean)

    def on_checkpoint(self, path):
        assert checkpoint.checkpoints(path.parents[1])[-1] == path  # it is there
        return self._note("on_checkpoint", path.name)

    def on_end(self):
        self._note("on_end")

    def count(self, hook):
        return sum(call[0] == hook for call in self.calls)


def weights(directory):
    newest = checkpoint.checkpoints(directory)[-1]
    return {name: (newest / name).read_bytes() for name in ("weights.safetensors", "optimizers.safetensors")} | {
        name: (directory / name).read_bytes() for name in ("metrics.jsonl", "episodes.jsonl")
    }


# ------------------------------------------------------------------------------------------------------- when and what


def test_every_method_is_called_where_it_says_and_the_run_stays_the_same(tmp_path):
    recorder = Recorder()
    agent = agent_of(tmp_path / "with").learn(quiet=True, callback=recorder)
    agent_of(tmp_path / "without").learn(quiet=True)
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    assert {call[0] for call in recorder.calls} == set(HOOKS)
    assert recorder.calls[0] == ("on_start", 0)
    assert recorder.calls[-1] == ("on_end", 60)
    assert recorder.count("on_update") == agent.agent.updates
    evaluated = [call[1] for call in recorder.calls if call[0] == "on_evaluation"]
    assert evaluated == agent.history.evaluations["env_steps"].tolist()
    phases = agent.history.episodes["phase"]
    assert recorder.count("on_episode") == int(np.isin(phases, ["prefill", "train"]).sum())
    assert {call[2] for call in recorder.calls if call[0] == "on_step"} == {(2,)}
    assert recorder.count("on_step") == agent.history.metrics["replay/steps"][-1] / 2  # two environments
    assert agent.stopped_by == "train.env_steps"


def test_a_run_without_callbacks_has_none(make_run, tmp_path):
    assert make_run(tmp_path / "run").callbacks is None
    assert callbacks_of([None, []]) == []


@pytest.mark.parametrize("hook", ["on_start", "on_step", "on_update", "on_metrics", "on_episode", "on_evaluation"])
def test_false_stops_with_a_checkpoint_and_the_run_continues_bit_for_bit(tmp_path, hook):
    plain = Recorder()
    agent_of(tmp_path / "whole").learn(quiet=True, callback=plain)
    at = next(call[1] for call in plain.calls if call[0] == hook and (call[1] >= 30 or hook == "on_start"))
    stopped = agent_of(tmp_path / "run").learn(quiet=True, callback=Recorder((hook, at)))
    assert stopped.stopped_by == "Recorder"
    assert stopped.agent.updates < agent_of(tmp_path / "whole").learn(quiet=True).agent.updates
    newest = [path.name for path in checkpoint.checkpoints(tmp_path / "run")][-1:]
    assert newest == ([] if hook == "on_start" else [f"step-{at:012d}"])  # before the first step there is nothing
    again = agent_of(tmp_path / "run").learn(quiet=True)
    assert again.stopped_by == "train.env_steps"
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_function_is_called_after_every_step_and_may_stop(tmp_path):
    seen = []

    def until_30(training):
        seen.append(training.env_steps)
        return training.env_steps < 30

    agent = agent_of(tmp_path / "run").learn(quiet=True, callback=[until_30, None])
    assert agent.stopped_by == "until_30"
    assert seen[-1] == 30


def test_the_line_at_the_end_names_who_stopped(tmp_path, capsys):
    agent_of(tmp_path / "run").learn(callback=StopAtReturn(-1e9))
    assert "stopped by StopAtReturn; the same command continues it" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- errors and signals


class Breaks(reverie.Callback):
    def __init__(self, hook, at):
        self.at = at
        setattr(self, hook, self._break)

    def _break(self, *_):
        if self.training.env_steps >= self.at:
            raise ZeroDivisionError("of the user's own")


@pytest.mark.parametrize("hook", ["on_step", "on_update", "on_episode", "on_evaluation", "on_metrics"])
def test_an_error_in_a_callback_keeps_what_was_learnt_and_is_raised_again(tmp_path, hook):
    agent = agent_of(tmp_path / "run")
    with pytest.raises(ZeroDivisionError, match="of the user's own") as raised:
        agent.learn(quiet=True, callback=Breaks(hook, 40))
    assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "_break"
    newest = checkpoint.checkpoints(tmp_path / "run")[-1]
    assert int(newest.name[5:]) in (40, 42)  # the first of them with such an event
    saved = checkpoint.read_tensors(newest / "weights.safetensors")
    for name, value in agent.agent.state_dict().items():
        torch.testing.assert_close(saved[name], value, rtol=0, atol=0)
    agent_of(tmp_path / "run").learn(quiet=True)
    agent_of(tmp_path / "whole").learn(quiet=True)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_an_error_on_saving_or_at_the_end_is_raised_and_closes_the_run(tmp_path):
    for hook in ("on_checkpoint", "on_end", "on_start"):
        with pytest.raises(ZeroDivisionError):
            agent_of(tmp_path / hook).learn(quiet=True, callback=Breaks(hook, 0))
        agent_of(tmp_path / hook).learn(quiet=True)  # its directory is free again, and what it needs is there


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signals_are_raised_again_with_callbacks_too(tmp_path, usual_signals, number, kind):  # noqa: F811
    sent = []

    def strike(training):
        if training.env_steps == 40 and not sent:
            sent.append(True)
            os.kill(os.getpid(), number)

    agent, recorder = agent_of(tmp_path / "run"), Recorder()
    with pytest.raises(kind):
        agent.learn(quiet=True, callback=[strike, recorder])
    assert agent.stopped_by == signal.Signals(number).name
    assert recorder.calls[-2:] == [("on_checkpoint", 40, f"step-{40:012d}"), ("on_end", 40)]
    assert agent.learn(quiet=True).stopped_by == "train.env_steps"


class Misspelt(reverie.Callback):
    def on_epsiode(self, episode):
        return False


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Misspelt(), "has a method on_epsiode, which nothing calls"),
        (StopAtReturn, "is a class, not an object"),
        (7, "is no callback"),
        ([print, "x"], "is no callback"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_made(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        agent_of(tmp_path / "run").learn(quiet=True, callback=given)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------------- ready ones


def test_stop_at_return_counts_evaluations_or_episodes_and_earlier_calls(tmp_path):
    agent = agent_of(tmp_path / "a").learn(quiet=True, callback=StopAtReturn(-1e9))
    assert agent.history.evaluations["env_steps"].tolist() == [20]
    before = agent.agent.updates
    assert agent.learn(quiet=True, callback=StopAtReturn(-1e9)).agent.updates == before  # it has reached it already
    agent = agent_of(tmp_path / "b").learn(quiet=True, callback=StopAtReturn(-1e9, episodes=3))
    assert agent.history.episodes.rows in (3, 4)  # two environments may end at once
    assert agent_of(tmp_path / "c").learn(quiet=True, callback=StopAtReturn(1e9)).stopped_by == "train.env_steps"


def test_stop_without_improvement_reads_all_evaluations():
    stop, found = StopWithoutImprovement(2, by=0.5), {}
    stop.training = types.SimpleNamespace(evaluations=lambda: found)
    answers = []
    for at, mean in enumerate([1.0, 1.4, 1.6, 1.7, 2.0]):
        found[at] = Evaluation([mean], [1])
        answers.append(stop.on_evaluation(found[at]))
    assert answers == [True, True, True, True, False]  # 1.6 is better than 1.0 by more than 0.5, the next two are not


@pytest.mark.parametrize("callback", [StopAtReturn(1.0), StopWithoutImprovement()])
def test_who_waits_for_evaluations_needs_some(tmp_path, callback):
    with pytest.raises(UserError, match=r"train\.eval_every is 0"):
        agent_of(tmp_path / "run", eval_every=0).learn(quiet=True, callback=callback)


def test_a_time_limit_stops(tmp_path):
    agent = agent_of(tmp_path / "run").learn(quiet=True, callback=TimeLimit(1e-9))
    assert agent.stopped_by == "TimeLimit"
    assert agent.history.episodes.rows == 0


def test_log_to_and_publish_to_pass_on_what_the_files_have(tmp_path):
    lines, target, small = [], queue.Queue(), PublishTo(queue.Queue(1))
    given = [LogTo(lambda numbers, at: lines.append((at, numbers))), PublishTo(target), small]
    agent = agent_of(tmp_path / "run").learn(quiet=True, callback=given)
    written = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if "eval/return" not in line]
    assert [at for at, _ in lines] == [line["env_steps"] for line in written]
    for (_, numbers), line in zip(lines, written, strict=True):
        assert numbers == {key: pytest.approx(value, abs=1e-6) for key, value in line.items()}
    events = [target.get_nowait() for _ in range(target.qsize())]
    assert [events[0][0], events[-1][0]] == ["start", "end"]
    assert events[-1][1] == {"env_steps": 60, "updates": agent.agent.updates}
    assert sum(event == "evaluation" for event, _ in events) == agent.history.evaluations.rows
    assert small.lost == len(events) - 1  # and training went on


@pytest.mark.parametrize(
    ("name", "value_of"),
    [
        ("actor_lr", lambda agent: agent.optimizers["actor"].lr),
        ("critic_lr", lambda agent: agent.optimizers["critic"].torch.param_groups[0]["lr"]),
        ("model.world_model_lr", lambda agent: agent.optimizers["world_model"].lr),
        ("entropy_scale", lambda agent: agent.task.entropy_weight),
    ],
)
def test_a_schedule_sets_what_the_update_uses(tmp_path, name, value_of):
    seen = {}
    schedule = ScheduleSetting(name, [(20, 1e-3), (40, 3e-3)])

    class Watch(reverie.Callback):
        def on_update(self, metrics):
            seen[self.training.env_steps] = value_of(self.training.agent)

    agent_of(tmp_path / "run", entropy_target=0, train_ratio=0.5).learn(quiet=True, callback=[schedule, Watch()])
    for at, value in seen.items():
        assert value == pytest.approx(1e-3 + 2e-3 * min(20, at - 20) / 20), at
    assert len(seen) > 10


def test_a_schedule_of_noise_reaches_the_player(tmp_path):
    schedule = ScheduleSetting("explore_noise", lambda step: 0.5 if step > 40 else 0.1)
    seen = []

    class Watch(reverie.Callback):
        def on_step(self, row):
            seen.append((self.training.env_steps, self.training.state.player.explore_noise))

    agent_of(tmp_path / "run").learn(quiet=True, callback=[schedule, Watch()])
    assert {noise for at, noise in seen if at > 40} == {0.5}
    assert {noise for at, noise in seen if at <= 40} == {0.1}


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: ScheduleSetting("gamma", [(0, 0.9)]), "'gamma' cannot change while a run learns"),
        (lambda: ScheduleSetting("actor_lr", []), "there is no point"),
        (lambda: StopAtReturn(1, episodes=21), "episodes must be 0 to 20, got 21"),
        (lambda: StopWithoutImprovement(0), "evaluations must be 1 or more, got 0"),
        (lambda: TimeLimit(float("nan")), "minutes must be above 0, got nan"),
        (lambda: LogTo("file"), "LogTo takes a function, got 'file'"),
        (lambda: PublishTo([]), "PublishTo takes a queue"),
    ],
)
def test_a_wrong_argument_is_one_sentence(make_it, message):
    with pytest.raises(UserError, match=message):
        make_it()


def test_a_schedule_that_leaves_the_range_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"behavior\.actor_lr must be 0 or above, got -1"):
        agent_of(tmp_path / "run").learn(quiet=True, callback=ScheduleSetting("actor_lr", lambda step: -1))
    schedule = ScheduleSetting("entropy_scale", [(0, 0.1)])
    with pytest.raises(UserError, match=r"does nothing while behavior\.entropy_target is set"):
        agent_of(tmp_path / "other", entropy_target=0.5).learn(quiet=True, callback=schedule)


# ---------------------------------------------------------------------------------------------- history and notebooks


def test_history_has_what_the_files_have(tmp_path):
    pandas = pytest.importorskip("pandas")
    history = agent_of(tmp_path / "run").learn(quiet=True).history
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert history.metrics["env_steps"].tolist() == [line["env_steps"] for line in lines]
    assert history.metrics["env_steps"].dtype == np.int64
    loss = history.metrics["world_model/loss"]
    assert np.isnan(loss).tolist() == [line.get("world_model/loss") is None for line in lines]
    frame = history.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.shape == (history.metrics.rows, len(history.metrics))
    assert f"{history.episodes.rows} episodes" in repr(history)
    assert history._repr_html_().count("<table>") == 2
    with pytest.raises(KeyError, match="no column 'loss'; there are: env_steps"):
        history.metrics["loss"]


def test_a_table_without_pandas_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="to_frame needs pandas"):
        table_of([{"a": 1}]).to_frame()


def test_tables_of_notebooks_escape_text_and_cut_long_ones():
    assert "<script>" not in html_table(("<script>",), [("<script>",)])
    table = table_of([{"a": i, "b": None if i else 2.0} for i in range(100)])
    assert table._repr_html_().count("<tr>") == 7
    assert "100 rows" in table._repr_html_()
    assert repr(table) == "Table(100 rows: a, b)"


def test_evaluations_and_findings_are_readable(tmp_path):
    found = Evaluation([1.0, 3.0], [4, 9])
    assert repr(found) == "Evaluation(return 2.000 ± 1.960 over 2 episodes of 4 to 9 steps)"
    assert "<td>2</td>" in found._repr_html_()
    assert repr(Evaluation([], [])) == "Evaluation(no episode)"
    finding = Finding("posterior collapse", "FAIL", "0.1 nats", "it <matters>", "model.kl_scale", "lower it")
    assert repr(finding) == "FAIL posterior collapse: 0.1 nats (model.kl_scale: lower it)"
    assert "it &lt;matters&gt;" in finding._repr_html_()
    agent_of(tmp_path / "run").learn(quiet=True)
    several = diagnose(tmp_path / "run")
    assert isinstance(several, Findings)
    assert len(repr(several).splitlines()) == len(several) >= 1
    assert several._repr_html_().count("<tr>") == len(several) + 1


@pytest.fixture
def notebook(monkeypatch):
    """A notebook's kernel. -> (what was displayed, how often each of them was replaced)."""
    shown, replaced = [], []

    class Handle:
        def update(self, block):
            replaced.append(block._repr_html_())

    module = types.ModuleType("IPython.display")
    module.display = lambda *things, display_id=None: (shown.extend(things), Handle())[1]
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    kernel = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: kernel, raising=False)
    monkeypatch.setattr("rich.jupyter.display", lambda *_: shown.append("an output of rich"))
    return shown, replaced


def test_a_notebook_gets_one_block_that_is_replaced_in_its_place(tmp_path, notebook):
    shown, replaced = notebook
    assert Progress().live
    agent_of(tmp_path / "run").learn()
    (block,) = shown
    bars = [html for html in replaced if "<progress" in html]
    assert bars[0].startswith('<progress value="0.0000"')
    assert len(bars) > 1
    last = bars[-1]
    assert last == block._repr_html_()
    assert last.count("<progress") == last.count("<details>") == 1
    assert "return" in last
    assert "reached train.env_steps" in last[last.index("</details>") :]  # below the bar, not folded away
    assert "files " in last[: last.index("</details>")]
    assert "reached train.env_steps" in repr(block)


def test_an_agent_and_a_report_of_a_check_show_what_they_are(tmp_path):
    agent = agent_of(tmp_path / "run")
    assert "untrained" in repr(agent)
    assert str(tmp_path / "run") in repr(agent)
    report = reverie.check_env("CartPole-v1")
    assert repr(report) == str(report)
