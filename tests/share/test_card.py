"""A saved agent with its card, and where agents come from: folders, the package, a folder of yours."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from test_api import TINY

import reverie
from reverie import UserError, cli
from reverie.config.presets import load_preset
from reverie.files import Damaged
from reverie.insight.dream import dream
from reverie.insight.run_reader import open_run
from reverie.run.evaluation import Evaluation
from reverie.share import sources
from reverie.share.card import Card, Score, _text, make_card

pytest.importorskip("matplotlib", reason="cards have curves")

SETTINGS = TINY | {"env_steps": 150, "random_baseline": True, "eval_every": 60, "preset": "debug"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(the agent, its folder with a card)."""
    folder = tmp_path_factory.mktemp("card")
    agent = reverie.Dreamer("CartPole-v1", run=folder / "run", **SETTINGS).learn(quiet=True)
    options = {"optimum": 500, "name": "pole", "license": "mit", "description": "A <b>test</b>.", "command": "make it"}
    return agent, agent.save(folder / "agent", card=options, episodes=3)


@pytest.fixture
def copy(saved, tmp_path):
    """The folder, to be spoilt."""
    return shutil.copytree(saved[1], tmp_path / "copy")


def test_a_card_says_what_others_need(saved):
    agent, folder = saved
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.yaml", "spec.json", "weights.safetensors", "manifest.json", "README.md", "results.json",
        "learning_curve.png", "drift.png", "dream.png", "replay", "episode.gif",
    } - ({"episode.gif"} if not (folder / "episode.gif").exists() else set())  # fmt: skip
    head, text = re.fullmatch(r"---\n(.*?)---\n\n(.*)", (folder / "README.md").read_text(), re.S).groups()
    meta, results = yaml.safe_load(head), json.loads((folder / "results.json").read_text())
    (model,) = meta["model-index"]
    (entry,) = model["results"]
    assert (meta["library_name"], meta["license"], model["name"]) == ("reverie", "mit", "pole")
    assert entry["dataset"] == {"name": "CartPole-v1", "type": "CartPole-v1"}
    assert entry["metrics"][0]["value"] == f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    assert results["scores"] == agent.evaluate(3).scores
    assert (results["n_eval_episodes"], results["optimum"], results["training"]["env_steps"]) == (3, 500, 150)
    assert results["random"] == pytest.approx(agent.history.episodes["return"][:1].mean(), abs=60)
    for wanted in ("| random policy |", "| optimum | 500 |", "95 % interval over 3 episodes", "training seed 0"):
        assert wanted in text, wanted
    assert f"Protocol: {results['protocol']}." in text
    for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (folder / image).exists()
    assert (folder / "drift.png").read_bytes()[:4] == b"\x89PNG"
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pt", ".pickle", ".py")]


def test_the_folder_is_an_agent_whose_text_may_be_edited(copy, saved):
    agent, _ = saved
    (copy / "README.md").write_text("mine")
    again = reverie.load(copy)
    for one, other in zip(agent.agent.state_dict().values(), again.agent.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    (copy / "results.json").write_text("{}")
    with pytest.raises(Damaged, match=r"results\.json is damaged"):
        reverie.load(copy)


def test_one_can_play_in_the_dream_of_a_folder_with_episodes(saved):
    reader = open_run(saved[1])
    assert 20 < len(reader.need_experience()) <= 200
    assert reader.env_steps is None
    assert dream(reader, horizon=4, starts=2, samples=1).steps == 9


def test_save_over_a_card_and_over_something_else(copy, saved, tmp_path):
    agent, _ = saved
    agent.save(copy)
    assert not (copy / "README.md").exists()  # it is another agent's
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="something other than a saved agent"):
        agent.save(tmp_path / "mine", card=True)


@pytest.mark.parametrize(
    ("card", "message"),
    [({"licence": "mit"}, "card has no 'licence'"), ({"optimum": "high"}, "optimum must be a number, got 'high'")],
)
def test_a_wrong_card_is_one_sentence_before_anything_is_played(saved, tmp_path, card, message):
    with pytest.raises(UserError, match=message):
        saved[0].save(tmp_path / "x", card=card)
    assert not (tmp_path / "x").exists()


def test_a_loaded_agent_without_its_run_has_a_card_of_its_score(saved, tmp_path):
    _, folder = saved
    again = reverie.load(folder, run=tmp_path / "new")
    other = again.save(tmp_path / "other", card=True, episodes=1)
    assert not (other / "drift.png").exists()
    assert "over 1 episodes" in (other / "README.md").read_text()


def test_names_in_a_card_cannot_break_its_metadata(saved):
    agent, _ = saved
    config = reverie.load_preset("debug", {"env.id": "x: [y], # z"})
    text = make_card(config, Score(agent.evaluate(1), "eval", 0), {}, None)["README.md"]
    meta = yaml.safe_load(text.split("---\n")[1])
    assert meta["tags"][0] == "x: [y], # z"


# --------------------------------------------------------------------------------------------------- trained agents


def test_trained_agents_from_a_folder_of_the_users(saved, tmp_path, monkeypatch, capsys):
    shutil.copytree(saved[1], tmp_path / "more" / "pole")
    monkeypatch.setenv("REVERIE_PRETRAINED", str(tmp_path / "more"))
    assert reverie.load("pretrained:pole").config.env.id == "CartPole-v1"
    assert int(reverie.load_player("pretrained:pole")([0.0, 0.0, 0.0, 0.0])) in (0, 1)
    with pytest.raises(UserError) as error:
        reverie.load("pretrained:nothing")
    assert "no trained agent 'nothing'" in str(error.value)
    assert f"In {tmp_path / 'more'}: pole." in str(error.value)
    assert cli.main(["watch", "--pretrained", "../pole"]) == 2
    assert "no trained agent '../pole'" in capsys.readouterr().err


@pytest.mark.parametrize("name", sources.agents_in(sources.BUNDLED))
def test_trained_agents_of_the_package_are_small_and_say_what_they_reach(name):
    folder = sources.BUNDLED / name
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 3_000_000
    results = json.loads((folder / "results.json").read_text())
    assert results["n_eval_episodes"] >= 50
    assert results["mean_reward"] >= results["level"] > results["random"]
    reader = open_run(folder)
    assert dream(reader, horizon=3, starts=1, samples=1).images
    assert reader.config.env.id == results["env_id"]


def test_fetching_a_folder_from_elsewhere_refuses_links_and_code(copy, tmp_path, capsys):
    (copy / "notes.md").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="is a link: an agent from elsewhere has none"):
        sources.require_plain(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing"):
        sources.require_plain(tmp_path / "empty")


@pytest.mark.parametrize("name", ["hf://x", "hf://../x", "hf://a/b/c", "hf://a/..", "hf://"])
def test_what_is_no_repository_is_one_sentence(name):
    with pytest.raises(UserError, match="is no repository of the hub"):
        reverie.load(name)


def test_without_the_hubs_package_the_way_is_told(monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="the hub needs the package huggingface_hub"):
        reverie.load("hf://user/name")
    with pytest.raises(UserError, match="the hub needs the package huggingface_hub"):
        saved[0].push_to_hub("user/name")


def test_watch_opens_a_trained_agent(saved, tmp_path):
    shutil.copytree(saved[1], tmp_path / "more" / "pole")
    code = "import sys, reverie.cli; sys.exit(reverie.cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "watch", "--pretrained", "pole", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"REVERIE_PRETRAINED": str(tmp_path / "more")}
    )
    try:
        assert json.loads(process.stdout.readline())["runs"] == ["pole"]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def test_what_the_user_says_of_random_play_and_of_drift_is_a_sentence(tmp_path):
    """Given levels are used, and what could not be measured is not counted in steps."""

    score = Score(Evaluation([1.0, 2.0], [5, 6]), "eval", 0, random=None)
    card = Card(load_preset("debug", {"env.id": "CartPole-v1"}), score, {})
    card.drift = "How long the dream is better than guessing was not measured: episodes are too short."
    assert card.drift in _text(card)
    assert not any("for not measured" in line for line in _text(card))


def test_the_given_level_of_random_play_stands_in_the_card(tmp_path):
    reverie.load("pretrained:demo").save(tmp_path / "a", card={"random": 0.125}, episodes=1)
    assert json.loads((tmp_path / "a" / "results.json").read_text())["random"] == 0.125
    assert "| random policy | 0.125 |" in (tmp_path / "a" / "README.md").read_text()


@pytest.mark.parametrize("card", [{"colour": 1}, "yes", {"random": "x"}])
def test_a_wrong_card_is_refused_before_anything_is_played(tmp_path, card):
    with pytest.raises(reverie.UserError, match="card"):
        reverie.load("pretrained:demo").save(tmp_path / "a", card=card)
    assert not (tmp_path / "a").exists()
