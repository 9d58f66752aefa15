"""What a stranger finds in the wheel: metadata, an absolute README, the data files."""

import importlib.util
import re
import sys
import tomllib
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def hook(monkeypatch):
    """hatch_build.py, with a stand-in for hatchling where that is not installed."""
    if importlib.util.find_spec("hatchling") is None:
        names = "hatchling", "hatchling.metadata", "hatchling.metadata.plugin", "hatchling.metadata.plugin.interface"
        for name in names:
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules[names[-1]].MetadataHookInterface = type("MetadataHookInterface", (), {})
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def updated(hook, monkeypatch, address):
    monkeypatch.setenv("REVERIE_REPOSITORY", address)
    one, metadata = hook.CustomMetadataHook(), {}
    one.root = str(ROOT)
    one.update(metadata)
    return metadata


def test_with_an_address_everything_in_the_readme_is_absolute(hook, monkeypatch):
    metadata = updated(hook, monkeypatch, "https://example.org/me/reverie/")
    targets = re.findall(r"\]\(([^)]*)\)", metadata["readme"]["text"])
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "http://", "#"))] == []
    assert "](https://example.org/me/reverie/raw/main/docs/media/dream.gif)" in metadata["readme"]["text"]
    assert "](https://example.org/me/reverie/blob/main/docs/time.md)" in metadata["readme"]["text"]
    assert metadata["urls"]["Issues"] == "https://example.org/me/reverie/issues"


def test_without_an_address_there_is_no_broken_image_and_no_invented_url(hook, monkeypatch):
    metadata = updated(hook, monkeypatch, "")
    assert "urls" not in metadata
    assert "![" not in metadata["readme"]["text"]
    assert len(metadata["readme"]["text"]) > len(README) / 2


def test_metadata_says_who_for_whom_and_which_python():
    project = PROJECT["project"]
    assert project["authors"]
    versions = {name.rsplit(" ", 1)[1] for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)}
    assert versions == {"3.11", "3.12", "3.13"}
    assert project["requires-python"] == ">=3.11,<3.14"
    assert {"readme", "urls"} <= set(project["dynamic"])
    assert not {"readme", "urls"} & project.keys()  # a name cannot be both


def test_every_extra_that_a_sentence_or_a_page_names_exists():
    extras = PROJECT["project"]["optional-dependencies"]
    files = [*ROOT.glob("docs/*.md"), ROOT / "README.md", *(ROOT / "src").rglob("*.py")]
    named = {
        name
        for path in files
        for group in re.findall(r"reverie-rl\[([\w,-]+)\]", path.read_text(encoding="utf-8"))
        for name in group.split(",")
    }
    assert named
    assert named <= extras.keys()


def test_the_table_of_extras_names_only_those_that_exist():
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    table = text.split("## What needs which extra\n")[1].split("\n## ")[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith(("| `", "| the"))]
    named = {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)}
    assert {"web", "plot", "evidence", "wandb", "mlflow", "hub"} <= named
    assert named <= PROJECT["project"]["optional-dependencies"].keys()


def test_a_release_is_tried_on_every_python_of_the_metadata():
    script = (ROOT / ".ci" / "release").read_text(encoding="utf-8")
    assert "versions=(3.11 3.12 3.13)" in script
    assert "release:" in (ROOT / "Makefile").read_text(encoding="utf-8")
