"""Results of runs as files, what a score depends on, and when two scores may be compared."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import yaml

from reverie import UserError
from reverie.config import SETTINGS, Config, build, to_dict
from reverie.config.presets import load_preset
from reverie.evidence.protocol import WORDS, experiment, facts_of, mismatches, references_of
from reverie.evidence.record import PROTOCOLS
from reverie.evidence.results import FORMAT, RunResult, read_result, result_of, results_in, write_result


def episode(phase, frames, score, **more):
    return {"phase": phase, "env_steps": frames, "frames": frames, "seconds": 1.5, "return": score, "length": 7} | more


#: A run that was trained for 100 steps and evaluated in the middle and at its end.
EPISODES = [
    episode("random", 0, -3.0),
    episode("prefill", 20, -2.0),
    episode("train", 40, 1.0),
    episode("train", 60, 2.5),
    episode("eval", 60, 8.0),
    episode("eval", 60, 9.0),
    episode("train", 100, 4.0),
    episode("eval", 100, 10.0),
    episode("eval", 100, 12.0),
]


@pytest.fixture
def run_of(tmp_path):
    """run_of(name, episodes, metrics, **overrides): a run's directory written by hand, below tmp_path."""

    def make(name, episodes=EPISODES, metrics=(), facts=None, **overrides):
        directory = tmp_path / name
        directory.mkdir(parents=True)
        config = load_preset("debug", {"env.id": "custom:toy", "env_steps": 100} | overrides)
        (directory / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
        (directory / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in episodes))
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
        if facts is not None:
            (directory / "provenance.json").write_text(json.dumps(facts))
        return directory

    return make


def plain(result):
    """Everything that a result says but where it was read."""
    values = {item.name: getattr(result, item.name) for item in fields(RunResult) if item.name != "source"}
    return values | {"episodes": {phase: rows.tolist() for phase, rows in result.episodes.items()}}


# ----------------------------------------------------------------------------------------------------------------- runs


def test_a_real_run_has_a_result(make_run, tmp_path):
    run = make_run(tmp_path / "pong-s3", seed=3)
    run.train()
    found = result_of(tmp_path / "pong-s3")
    assert (found.label, found.task, found.seed) == ("pong", "custom:toy", 3)
    assert (found.env_steps, found.frames, found.updates) == (120, 120, run.clock.updates)
    assert found.complete
    assert found.ratio == pytest.approx(run.clock.achieved_ratio(run.config.train.pretrain), abs=1e-5)
    assert found.seconds == pytest.approx(run.clock.seconds, abs=0.1)
    assert {phase: len(rows) for phase, rows in found.episodes.items()} == {"prefill": 4, "train": 8, "eval": 2}
    assert found.scores("train").tolist() == [2055, 2055, 3055, 3055, 4055, 4055, 5055, 5055]  # toys.CountingEnv
    assert found.episodes["train"][:, 0].tolist() == [60, 60, 80, 80, 100, 100, 120, 120]
    assert set(found.episodes["train"][:, 2]) == {10}
    assert found.final().tolist() == [55, 55]
    assert build(dict(found.settings)) == run.config  # all that is unusual, and that alone
    assert all(value != SETTINGS[key].default for key, value in found.settings.items())
    assert found.protocol == facts_of(run.config) | {"line": "as Gymnasium makes it, action repeat 1"}
    assert {"command", "commit", "versions", "hardware"} <= found.provenance.keys()
    assert "protocol" not in found.provenance
    assert found.source == str(tmp_path / "pong-s3")
    path = write_result(found, tmp_path / "results" / "new" / "pong-s3.json")
    assert plain(read_result(path)) == plain(found)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("pong-s3", "pong"),
        ("pong--s3", "pong"),
        ("pong_s3", "pong"),
        ("pong-3", "pong"),
        ("pong", "pong"),
        ("pong3", "pong3"),
        ("pong-s4", "pong-s4"),
        ("pong-s13", "pong-s13"),
        ("-s3", "-s3"),
        ("kl-s3-s3", "kl-s3"),
    ],
)
def test_seeds_of_one_experiment_have_one_label(run_of, name, label):
    assert result_of(run_of(name, seed=3)).label == label
    assert result_of(run_of(f"again/{name}", seed=3), label="mine").label == "mine"


def test_the_label_is_of_the_directory_however_it_is_named(run_of, monkeypatch):
    run = run_of("pong-s3", seed=3)
    monkeypatch.chdir(run)
    assert result_of(type(run)(".")).label == "pong"


def test_a_run_that_goes_on_has_a_result(run_of):
    metrics = [
        {"env_steps": 60, "frames": 60, "updates": 5, "train/ratio": 0.1, "seconds": 2.0},
        {"env_steps": 70, "frames": 70, "updates": 7, "train/ratio": 0.11, "seconds": 3.25},
        {"env_steps": 75, "something": 1},
    ]
    found = result_of(run_of("run", EPISODES[:4], metrics))
    assert (found.env_steps, found.frames, found.updates, found.ratio, found.seconds) == (70, 70, 7, 0.11, 3.25)
    assert not found.complete
    assert found.final().tolist() == found.scores("eval").tolist() == []
    bare = result_of(run_of("bare", []))
    assert (bare.env_steps, bare.updates, bare.ratio, bare.seconds, bare.episodes) == (0, 0, 0, 0, {})
    assert not bare.complete
    assert result_of(run_of("short", EPISODES[:3])).seconds == 1.5  # of its episodes


@pytest.mark.parametrize(
    ("count", "steps", "whole"),
    [(9, 100, True), (8, 100, True), (7, 100, False), (6, 100, False), (9, 101, False), (9, 60, True), (6, 60, True)],
)
def test_a_run_is_complete_once_it_is_evaluated_at_its_end(run_of, count, steps, whole):
    assert result_of(run_of("run", EPISODES[:count], env_steps=steps)).complete is whole


def test_episodes_without_a_number_and_of_other_phases_are_left_out(run_of):
    lines = [*EPISODES, episode("train", 90, None), episode("crashed", 95, 77.0), {"note": "none"}]
    found = result_of(run_of("run", lines))
    assert plain(found)["episodes"] == plain(result_of(run_of("other")))["episodes"]
    assert list(found.episodes) == ["random", "prefill", "train", "eval"]


def test_a_half_written_line_is_left_out(run_of):
    run = run_of("run")
    with open(run / "episodes.jsonl", "a") as file:
        file.write('{"phase": "train", "frames": 1')
    assert result_of(run).scores("train").tolist() == [1, 2.5, 4]


def test_what_episodes_log_is_averaged_over_training(run_of):
    lines = [
        episode("prefill", 10, 0.0, **{"achievement/wood": 1}),
        episode("train", 20, 0.0, **{"achievement/wood": 1, "achievement/iron": 0}),
        episode("train", 30, 0.0, **{"achievement/wood": 0, "achievement/iron": 0}),
        episode("train", 40, 0.0, **{"achievement/wood": 1}),
        episode("eval", 40, 0.0, **{"achievement/wood": 0, "achievement/diamond": 1}),
    ]
    found = result_of(run_of("run", lines))
    assert found.logged == {"achievement/wood": 3 / 4, "achievement/iron": 0}  # the random ones at the start count


def test_a_logged_number_that_is_none_is_left_out(run_of):
    """`Logger` writes null for NaN."""
    lines = [episode("train", 20, 0.0, **{"task/x": None}), episode("train", 30, 0.0, **{"task/x": 2.0})]
    assert result_of(run_of("run", lines)).logged == {"task/x": 2.0}


@pytest.mark.parametrize("text", [None, "", "[]", "{"])
def test_without_provenance_there_is_less_to_tell(run_of, text):
    run = run_of("run")
    if text is not None:
        (run / "provenance.json").write_text(text)
    found = result_of(run)
    assert found.provenance == {}
    assert "line" not in found.protocol


def test_provenance_reports_the_rendering(run_of):
    for look in ("standard", "fast"):
        facts = {"seed": 0, "protocol": {"id": "x", "line": f"dmc/walker-walk: camera 0, {look} look, drawn by egl"}}
        run = run_of(look, facts=facts, **{"env.id": "dmc/walker-walk", "env.pixels": True})
        found = result_of(run)
        assert found.protocol["look"] == look
        assert found.protocol["line"] == facts["protocol"]["line"]
        assert found.provenance == {"seed": 0}


def test_no_run_is_no_result(tmp_path):
    with pytest.raises(UserError, match="config"):
        result_of(tmp_path / "nowhere")


# --------------------------------------------------------------------------------------------------------------- scores


def test_bins_are_half_open(run_of):
    found = result_of(run_of("run"))
    assert found.scores("train").tolist() == [1, 2.5, 4]
    assert found.scores("train", 0, 40).tolist() == [1]  # (after, upto]
    assert found.scores("train", 40, 60).tolist() == [2.5]
    assert found.scores("train", 60, 99.9).tolist() == []
    assert found.scores("train", 40).tolist() == [2.5, 4]
    assert found.scores("train", upto=60).tolist() == [1, 2.5]
    assert found.scores("random").tolist() == [-3]  # at frame 0, too
    assert found.scores("nothing").tolist() == []
    bins = [found.scores("train", after, after + 20) for after in range(0, 100, 20)]
    assert np.concatenate(bins).tolist() == found.scores("train").tolist()  # each episode is in one


def test_the_final_score_is_of_the_last_evaluation(run_of):
    assert result_of(run_of("run")).final().tolist() == [10, 12]
    assert result_of(run_of("half", EPISODES[:6])).final().tolist() == [8, 9]


# ---------------------------------------------------------------------------------------------------------------- files


def test_what_is_written_is_read(run_of, tmp_path):
    facts = {"command": "reverie train", "commit": "abc", "protocol": {"line": "as one makes it"}}
    overrides = {"env.options": ["sticky=0", "noop_max=0"], "env.id": "ALE/Pong-v5", "train.train_ratio": 0.3}
    found = result_of(run_of("pong-s1", facts=facts, seed=1, **overrides))
    path = write_result(found, tmp_path / "a" / "b" / "pong-s1.json")
    assert path == tmp_path / "a" / "b" / "pong-s1.json"
    assert [x.name for x in path.parent.iterdir()] == ["pong-s1.json"]  # no draft is left
    again = read_result(path)
    assert plain(again) == plain(found)
    assert again.source == str(path)
    assert again.settings["env.options"] == ["sticky=0", "noop_max=0"]
    assert again.protocol["sticky"] == 0
    assert again.to_json() == found.to_json() == path.read_text()
    assert write_result(replace(found, seed=2), path) == path  # over an older one
    assert read_result(path).seed == 2


def test_a_result_without_episodes_is_written_and_read(run_of, tmp_path):
    found = result_of(run_of("run", []))
    assert plain(read_result(write_result(found, tmp_path / "x.json"))) == plain(found)


def test_the_file_is_made_to_be_committed(run_of, tmp_path):
    """The format first, a line for each thing and for each phase, whole numbers whole, nothing but JSON."""
    run = run_of("pong-s1", [episode("train", 4000000, 1.23456789), *EPISODES], seed=1)
    text = write_result(result_of(run), tmp_path / "x.json").read_text()
    assert text.startswith(
        '{\n "format": "reverie-result-1",\n "label": "pong",\n "task": "custom:toy",\n "seed": 1,\n'
    )
    assert '\n  "train": [[4000000, 1.2346, 7], [40, 1.0, 7], [60, 2.5, 7], [100, 4.0, 7]],\n' in text
    assert text.endswith("\n }\n}\n")
    assert json.loads(text).keys() == {"format"} | {item.name for item in fields(RunResult)} - {"source"}


def text_of(run_of, tmp_path):
    return write_result(result_of(run_of("made-by-hand")), tmp_path / "good.json").read_text()


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "no seed": lambda text: text.replace(' "seed": 0,\n', ""),
    "no episodes": lambda text: text.split(',\n "episodes"')[0] + "\n}\n",
    "more": lambda text: text.replace(' "seed": 0,\n', ' "seed": 0,\n "other": 0,\n'),
    "words": lambda text: text.replace("[40, 1.0, 7]", '[40, "many", 7]'),
    "two columns": lambda text: text.replace("[[20, -2.0, 7]]", "[[20, -2.0]]"),
    "no list": lambda text: text.replace("[[20, -2.0, 7]]", "null"),
    "no settings": lambda text: text.replace('"settings": {', '"settings": null, "protocol": {'),
    "a list": lambda text: f'["{FORMAT}"]',
    "a word": lambda text: f'"{FORMAT}"',
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_reported(run_of, tmp_path, name):
    good = text_of(run_of, tmp_path)
    path = tmp_path / "results" / "bad.json"
    path.parent.mkdir()
    path.write_text(DAMAGES[name](good))
    assert path.read_text() != good
    for read in (read_result, lambda path: results_in([path]), lambda path: results_in([path.parent])):
        with pytest.raises(UserError, match=r"bad\.json is a damaged result \(.+\)\. Make it again, or leave it out\."):
            read(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [("[40, 1.0, 7]", "[40, null, 7]"), ("[[20, -2.0, 7]]", "[[20, -2.0, 7, 20, -2.0, 7]]")],
    ids=["null", "six columns"],
)
def test_rows_that_no_episode_can_have_are_damage(run_of, tmp_path, old, new):
    path = tmp_path / "bad.json"
    path.write_text(text_of(run_of, tmp_path).replace(old, new))
    with pytest.raises(UserError, match="damaged"):
        read_result(path)


def test_a_file_nested_without_end_is_damage(tmp_path):
    (tmp_path / "bad.json").write_text(f'{{"format": "{FORMAT}", "settings": ' + "[" * 100_000)
    with pytest.raises(UserError, match="damaged"):
        read_result(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ('"train.batch_size": 4', '"train.batch_size": 4, "model.of_tomorrow": 1', "of_tomorrow"),
        ('"train.batch_size": 4', '"train.batch_size": "four"', "batch_size"),
    ],
)
def test_settings_of_another_version_are_reported_in_a_sentence(run_of, tmp_path, old, new, match):
    path = tmp_path / "tomorrow.json"
    text = text_of(run_of, tmp_path)
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=match) as caught:
        read_result(path)
    assert str(path) in caught.value.message
    assert caught.value.message.endswith(".")


def test_other_files_are_none(tmp_path):
    path = tmp_path / "other.json"
    for text in ("{}", "[1, 2]", "", "no JSON at all", '{"format": "reverie-result-2"}', '{"scores": [1]}'):
        path.write_text(text)
        assert read_result(path) is None
        with pytest.raises(UserError, match=r"other\.json is not a result of a run.*" + FORMAT):
            results_in([path])
        with pytest.raises(UserError, match="no run and no result"):
            results_in([tmp_path])


def test_what_cannot_be_read_is_reported(tmp_path):
    (tmp_path / "picture.json").write_bytes(b"\xff\xfe\x00")
    assert read_result(tmp_path / "picture.json") is None  # whatever it is, it is none of ours
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(UserError, match="cannot read"):
            read_result(path)


def test_what_cannot_be_written_is_reported(run_of, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*x\.json"):
        write_result(result_of(run_of("run")), tmp_path / "file" / "x.json")


# -------------------------------------------------------------------------------------------------------------- folders


def named(results):
    return [(result.label, result.seed) for result in results]


def test_folders_have_runs_and_results_each_once(run_of, tmp_path):
    one, two = run_of("all/runs/pong-s1", seed=1), run_of("all/runs/pong-s2", seed=2)
    three = run_of("elsewhere/pong-s3", seed=3)
    for run in (one, three):
        write_result(result_of(run), tmp_path / "all" / "results" / f"{run.name}.json")
    (tmp_path / "all" / "results" / "summary.json").write_text('{"games": 26}')
    (tmp_path / "all" / "notes.txt").write_text(FORMAT)
    found = results_in([tmp_path / "all"])
    assert named(found) == [("pong", 1), ("pong", 3), ("pong", 2)]  # files first; that of run 1 stands for it
    assert [result.source for result in found] == [
        *(str(tmp_path / "all" / "results" / f"pong-s{seed}.json") for seed in (1, 3)),
        str(two),
    ]
    assert named(results_in([three, tmp_path / "all" / "results" / "pong-s1.json"])) == [("pong", 3), ("pong", 1)]


def test_same_label_on_another_task_is_another_run(run_of, tmp_path):
    run = run_of("all/base-s1", seed=1)
    run_of("all/pong/base-s1", seed=1, **{"env.id": "ALE/Pong-v5"})
    write_result(result_of(run), tmp_path / "all" / "x.json")
    assert sorted(result.task for result in results_in([tmp_path / "all"])) == ["ALE/Pong-v5", "custom:toy"]


def test_files_of_a_run_are_no_runs(run_of, tmp_path):
    run = run_of("all/pong-s1", seed=1)
    for inside in ("checkpoints/100", "crash/100"):
        (run / inside).mkdir(parents=True)
        (run / inside / "config.yaml").write_text((run / "config.yaml").read_text())
    write_result(replace(result_of(run), label="inside"), run / "results" / "x.json")
    (run / "first_rows.json").write_text("{}")
    assert named(results_in([tmp_path / "all"])) == named(results_in([run])) == [("pong", 1)]


def test_what_does_not_exist_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"nowhere does not exist\. Give a run"):
        results_in([tmp_path / "nowhere"])
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with pytest.raises(UserError, match=r"no run and no result in .*one, .*two\. Give directories"):
        results_in([tmp_path / "one", tmp_path / "two"])


def test_other_things_called_json_do_not_matter_in_folders(run_of, tmp_path):
    """A directory, a file that is no text: a folder of results may lie beside anything."""
    run_of("all/pong-s1", seed=1)
    (tmp_path / "all" / "old.json").mkdir()
    (tmp_path / "all" / "old.json" / "keep").write_text("")
    assert named(results_in([tmp_path / "all"])) == [("pong", 1)]
    (tmp_path / "all" / "picture.json").write_bytes(b"\xff\xfe\x00")
    assert named(results_in([tmp_path / "all"])) == [("pong", 1)]


def test_what_lies_above_a_folder_does_not_matter(run_of, tmp_path):
    """Results kept below the directory of a run, two levels deep."""
    run = run_of("pong-s1", seed=1)
    kept = run / "evidence" / "first"
    write_result(result_of(run), kept / "pong-s1.json")
    assert named(results_in([kept])) == [("pong", 1)]


# ------------------------------------------------------------------------------------------------------------ protocols


def facts(preset, env_id, line="", **overrides):
    return facts_of(load_preset(preset, {"env.id": env_id} | overrides), line)


PONG = {"suite": "atari", "action_repeat": 4, "time_limit": 27000, "noop_max": 30, "max_frames": 108000}
PONG |= {"lives": "ignore", "grayscale": True, "eval_mode": "eval"}


def test_facts_of_atari():
    assert facts("atari", "ALE/Pong-v5") == PONG | {"actions": "minimal", "sticky": 0.25}
    assert facts("atari-paper", "ALE/Pong-v5") == PONG | {"actions": "full", "sticky": 0.25}
    assert facts("atari100k", "ALE/Pong-v5") == PONG | {"actions": "minimal", "sticky": 0.0}
    options = ["sticky=0.1", "noop_max=0", "lives=terminal", "max_frames=4000"]
    changed = {"env.options": options, "grayscale": False, "eval_mode": "train", "action_repeat": 2}
    assert facts("atari", "atari/pong", **changed) == {
        "suite": "atari", "action_repeat": 2, "time_limit": 27000, "actions": "minimal", "sticky": 0.1, "noop_max": 0,
        "max_frames": 4000, "lives": "terminal", "grayscale": False, "eval_mode": "train",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "repeat", "frames"), [(0, 4, 108_000), (100, 4, 400), (27_000, 2, 54_000), (30_000, 4, 108_000)]
)
def test_the_limit_of_a_game_is_the_shorter_one(limit, repeat, frames):
    found = facts("atari", "ALE/Pong-v5", time_limit=limit, action_repeat=repeat)
    assert (found["max_frames"], found["time_limit"]) == (frames, limit)


def test_facts_of_control():
    common = {"suite": "dmc", "action_repeat": 2, "time_limit": 0, "episode_steps": 1000, "eval_mode": "eval"}
    vision = facts("dmc-vision", "dmc/walker-walk", "camera 0, standard look, drawn by egl")
    assert vision == common | {"pixels": True, "look": "standard"}
    assert facts("dmc-vision", "dmc/walker-walk", "camera 0, fast look")["look"] == "fast"
    assert facts("dmc-proprio", "dmc/walker-walk", "standard look") == common | {"pixels": False}
    assert facts("dmc-vision", "dmc/walker-walk", time_limit=100)["episode_steps"] == 200
    assert facts("dmc-vision", "dmc/walker-walk", time_limit=900)["episode_steps"] == 1000


def test_the_look_is_read_out_of_the_familys_own_line():
    pytest.importorskip("dm_control")
    from reverie.envs import make_request, protocol_of

    for look in ("standard", "fast"):
        line = protocol_of(make_request("dmc/walker-walk", pixels=True, options=[f"look={look}"]))
        assert facts("dmc-vision", "dmc/walker-walk", line)["look"] == look


@pytest.mark.parametrize(
    ("env_id", "reward"),
    [
        ("crafter/reward", True),
        ("crafter", True),
        ("CrafterReward-v1", True),
        ("CrafterNoReward-v1", False),
        ("crafter/noreward", False),
    ],
)
def test_facts_of_crafter(env_id, reward):
    common = {"suite": "crafter", "action_repeat": 1, "time_limit": 0, "eval_mode": "eval"}
    assert facts("crafter", env_id) == common | {"reward": reward}
    assert len(mismatches(facts("crafter", env_id), "crafter")) == (not reward)


def test_facts_of_other_environments():
    assert facts("debug", "CartPole-v1")["suite"] == "classic"
    assert facts("debug", "custom:toy") == {
        "suite": "gymnasium", "action_repeat": 1, "time_limit": 0, "eval_mode": "eval"
    }  # fmt: skip
    assert facts("minatar", "MinAtar/Breakout-v1")["suite"] == "minatar"


RIGHT = {
    "dreamerv2-atari": ("atari-paper", "ALE/Pong-v5", ""),
    "dreamerv2-dmc": ("dmc-vision", "dmc/walker-walk", "standard look"),
    "atari-100k": ("atari100k", "ALE/Pong-v5", ""),
    "crafter": ("crafter", "crafter/reward", ""),
}


@pytest.mark.parametrize("reference", PROTOCOLS)
def test_the_right_preset_may_be_compared_and_no_other(reference):
    assert mismatches(facts(*RIGHT[reference]), reference) == []
    for other in RIGHT.keys() - {reference}:
        assert mismatches(facts(*RIGHT[other]), reference) != []


@pytest.mark.parametrize("reference", PROTOCOLS)
def test_every_difference_is_one_sentence(reference):
    right = facts(*RIGHT[reference])
    wrong = {"suite": "other", "actions": "some", "action_repeat": 3, "sticky": 0.125, "noop_max": 1, "max_frames": 7}
    wrong |= {"lives": "terminal", "grayscale": False, "pixels": False, "episode_steps": 9, "look": "fast"}
    wrong |= {"reward": False, "time_limit": 500}
    said = {
        "grayscale": "yes",
        "pixels": "yes",
        "reward": "yes",
        "sticky": "0" if reference == "atari-100k" else "0.25",
    }
    keys = [key for key in PROTOCOLS[reference] if key != "scored"]
    for key in keys:
        found = mismatches(right | {key: wrong[key]}, reference)
        assert len(found) == 1, key
        here = {False: "no"}.get(wrong[key], str(wrong[key]))
        there = said.get(key, str(PROTOCOLS[reference][key]))
        assert found == [f"{WORDS[key]}: {here} here, {there} there"]
        without = {k: value for k, value in right.items() if k != key}
        assert mismatches(without, reference) == [f"{WORDS[key]}: not so here, {there} there"]
    together = mismatches(right | {key: wrong[key] for key in keys}, reference)
    assert [sentence.split(":")[0] for sentence in together] == [WORDS[key] for key in keys]


@pytest.mark.parametrize("reference", PROTOCOLS)
def test_sampled_evaluations_matter_where_evaluations_were_scored(reference):
    found = mismatches(facts(*RIGHT[reference]) | {"eval_mode": "train"}, reference)
    expected = ["which episodes count: evaluations sample their actions here, the most likely one there"]
    assert found == (expected if reference == "dreamerv2-atari" else [])


def test_mismatches_of_real_settings():
    assert mismatches(facts("atari", "ALE/Pong-v5"), "dreamerv2-atari") == ["the action set: minimal here, full there"]
    assert mismatches(facts("atari", "ALE/Pong-v5"), "atari-100k") == [
        "the probability of sticky actions: 0.25 here, 0 there"
    ]
    assert mismatches(facts("dmc-proprio", "dmc/walker-walk"), "dreamerv2-dmc") == [
        "learning from pixels: no here, yes there",
        "the rendering: not so here, standard there",
    ]
    assert mismatches(facts("atari-paper", "ALE/Pong-v5", time_limit=100), "dreamerv2-atari") == [
        "the limit of an episode in frames: 400 here, 108000 there"
    ]


@pytest.mark.parametrize(
    ("preset", "env_id", "expected"),
    [
        ("atari-paper", "ALE/Pong-v5", ["dreamerv2-atari", "atari-100k"]),
        ("atari100k", "ALE/Pong-v5", ["atari-100k", "dreamerv2-atari"]),
        ("atari", "ALE/Tennis-v5", ["dreamerv2-atari"]),  # not among the 26 games
        ("atari", "ALE/Surround-v5", []),
        ("dmc-vision", "dmc/cup-catch", ["dreamerv2-dmc"]),
        ("dmc-vision", "dmc/dog-run", []),
        ("crafter", "crafter/reward", ["crafter"]),
        ("minatar", "MinAtar/Breakout-v1", []),
        ("debug", "custom:pong", []),
        ("debug", "CartPole-v1", []),
    ],
)
def test_references_are_of_the_task_best_match_first(preset, env_id, expected):
    assert references_of(facts(preset, env_id), env_id) == expected


def test_what_makes_an_experiment():
    """Not seeds, budgets, hardware and logs; all else."""
    every = dict.fromkeys(SETTINGS, 0)
    kept, dropped = experiment(every), every.keys() - experiment(every).keys()
    assert {"train.seed", "train.env_steps", "train.eval_every", "env.backend", "replay.storage"} <= dropped
    assert {key for key in every if key.startswith(("compute.", "log."))} <= dropped
    assert {key.split(".")[0] for key in dropped} == {"train", "compute", "log", "env", "replay"}
    groups = ("model.", "behavior.")
    assert {key for key in every if key.startswith(groups)} <= kept.keys()
    learning = {"batch_size", "seq_len", "train_ratio", "prefill", "pretrain", "eval_mode", "optimizer", "grad_clip"}
    assert {f"train.{name}" for name in learning} | {"env.id", "env.options", "replay.replay_capacity"} <= kept.keys()


def test_seeds_of_one_experiment_are_the_same_experiment(run_of):
    one = result_of(run_of("a-s1", seed=1, threads=1, tensorboard=False, health_every=7))
    two = result_of(run_of("a-s2", seed=2, env_steps=500, eval_every=50, device="cpu"))
    other = result_of(run_of("a-s3", seed=3, kl_scale=0.5))
    assert experiment(dict(one.settings)) == experiment(dict(two.settings))
    assert experiment(dict(other.settings)) == experiment(dict(one.settings)) | {"model.kl_scale": 0.5}
    assert "train.seed" in one.settings
    assert experiment({}) == {}
    assert Config() == build(experiment({"train.seed": 5, "log.video": False}))
