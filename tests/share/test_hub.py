"""The way to the hub and back, against a stand-in of its HTTP interface with the hub's own Python package."""

import json
import sys

import pytest
import torch
from test_api import TINY

import reverie
from reverie import UserError
from reverie.files import MANIFEST, Damaged, manifest_of
from reverie.share import sources

from .hub_server import running

constants = pytest.importorskip("huggingface_hub.constants", reason="pip install 'reverie-rl[hub]'")
pytest.importorskip("matplotlib", reason="cards have curves")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that wants the token hf_test, which this user has."""
    with running() as found:
        found.token = "hf_test"
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setenv("REVERIE_CACHE", str(tmp_path / "cache"))
        yield found


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    settings = TINY | {"env_steps": 60, "prefill": 40, "preset": "debug"}
    folder = tmp_path_factory.mktemp("hub")
    return reverie.Dreamer("CartPole-v1", run=folder / "run", **settings).learn(quiet=True)


def test_an_agent_goes_to_the_hub_and_comes_back(hub, agent, tmp_path):
    address = agent.push_to_hub("me/pole", card={"name": "pole"}, episodes=1)
    assert address == f"{hub.url}/me/pole"
    files = hub.repositories["me/pole"]
    assert {"README.md", "results.json", "config.yaml", "spec.json", "weights.safetensors", MANIFEST} <= files.keys()
    assert files["README.md"].startswith(b"---\nlibrary_name: reverie")
    files |= {"evil.py": b"raise SystemExit", "weights.pkl": b"\x80\x04."}
    again = reverie.load("hf://me/pole")
    for one, other in zip(agent.agent.state_dict().values(), again.agent.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    fetched = {path.name for path in (tmp_path / "cache" / "hub" / "me--pole").iterdir()} - {".cache"}
    assert not {"evil.py", "weights.pkl"} & fetched
    assert not [line for line in hub.requests if "evil" in line or "pkl" in line]
    assert int(reverie.load_player("hf://me/pole")([0.0] * 4)) in (0, 1)
    assert agent.push_to_hub("me/pole", episodes=1) == address  # a newer version of the same


def test_trained_agents_can_come_from_the_hub(hub, agent, monkeypatch):
    agent.push_to_hub("me/reverie-pole", episodes=1)
    monkeypatch.setenv("REVERIE_PRETRAINED", "hf://me")
    assert reverie.load("pretrained:pole").config.env.id == "CartPole-v1"
    with pytest.raises(UserError, match="cannot fetch me/reverie-other from the hub"):
        reverie.load("pretrained:other")


def spoilt(hub, agent, tmp_path, change):
    """An agent on the hub whose files `change` has changed, with a manifest that fits them."""
    folder = agent.save(tmp_path / "mine", card=True, episodes=1)
    change(folder)
    (folder / MANIFEST).write_text(manifest_of(folder))
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    hub.repositories["me/odd"] = files


def test_code_that_settings_name_is_not_imported(hub, agent, tmp_path, monkeypatch):
    (tmp_path / "evil_env.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)

    def name_code(folder):
        path = folder / "config.yaml"
        text = path.read_text()
        path.write_text(text.replace("id: CartPole-v1", "id: evil_env:make"))
        assert path.read_text() != text

    spoilt(hub, agent, tmp_path, name_code)
    assert reverie.load("hf://me/odd").config.env.id == "custom:evil_env:make"
    assert "evil_env" not in sys.modules


def test_what_is_damaged_or_no_agent_is_refused(hub, agent, tmp_path):
    spoilt(hub, agent, tmp_path, lambda folder: None)
    hub.repositories["me/odd"]["weights.safetensors"] = b"\x80\x04pickle"
    with pytest.raises(Damaged, match=r"weights\.safetensors is damaged"):
        reverie.load("hf://me/odd")
    hub.repositories["me/none"] = {"README.md": b"hello"}
    with pytest.raises(UserError, match="holds no agent"):
        reverie.load("hf://me/none")


def test_a_link_in_the_cache_is_refused(hub, agent, tmp_path):
    spoilt(hub, agent, tmp_path, lambda folder: None)
    folder = sources.fetch("me/odd")
    (folder / "more.json").symlink_to(tmp_path / "mine" / "spec.json")
    with pytest.raises(UserError, match="is a link: an agent from elsewhere has none"):
        reverie.load("hf://me/odd")


def test_mistakes_are_one_sentence(hub, agent, monkeypatch):
    with pytest.raises(UserError, match="cannot fetch me/nothing from the hub"):
        reverie.load("hf://me/nothing")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="cannot send to me/pole"):
        agent.push_to_hub("me/pole", episodes=1)
    with pytest.raises(UserError, match="is no repository of the hub"):
        agent.push_to_hub("just-a-name")
    assert json.dumps(hub.repositories) == "{}"
