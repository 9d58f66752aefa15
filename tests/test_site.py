"""The documents as a site: `mkdocs build --strict` has no warning, and no page fetches anything from elsewhere."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
    pytest.importorskip(package, reason="the site needs: pip install 'reverie-rl[docs]'")

ROOT = Path(__file__).parents[1]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
#: Modules that a user or a newcomer calls; each has a page in the reference.
PUBLIC = (
    "rssm", "latents", "networks", "layers", "actor_critic", "world_model", "train", "distributions", "observations",
    "ops", "player", "api", "config", "envs", "data.replay", "run.evaluation",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. -> {page: HTML}."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return {path.relative_to(target).as_posix(): path.read_text(encoding="utf-8") for path in target.rglob("*.html")}


def pages(entry):
    """Every file that the navigation names."""
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in pages(value)]


def test_every_document_is_in_the_navigation():
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert documents <= set(pages(CONFIG["nav"]))


def test_every_public_module_has_a_page_of_reference():
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    for module in PUBLIC:
        assert re.search(rf"^::: reverie\.{re.escape(module)}\b", written, re.M), module


def test_start_page_is_the_readme(site):
    assert "discrete world model" in site["index.html"]
    assert {"contributing/index.html", "changelog/index.html", "examples/index.html"} <= set(site)


def test_reference_has_signatures_and_docstrings(site):
    page = site["reference/rssm/index.html"]
    assert 'id="reverie.rssm.DiscreteRSSM.kl_loss"' in page
    assert "kl_balance" in page
    assert 'id="reverie.rssm.demo"' not in page
    assert 'id="reverie.api.Dreamer.learn"' in site["reference/api/index.html"]


def test_formulas_are_mathml(site):
    page = site["equations/index.html"]
    assert page.count("<math") > 50
    assert "arithmatex" not in page
    text = re.sub(r"<[^>]+>", "", page)
    assert "\\hat" not in text
    assert "$" not in text


def test_examples_are_shown(site):
    listed = set(pages(CONFIG["nav"]))
    for path in (ROOT / "examples").glob("*.py"):
        assert f'href="{path.stem}/"' in site["examples/index.html"]
        assert f"examples/{path.stem}.md" in listed
        assert "import" in site[f"examples/{path.stem}/index.html"]


def test_every_command_setting_and_metric_is_in_the_reference(site):
    """Each with what the code says about it."""
    from reverie.commands import COMMANDS
    from reverie.config import SETTINGS
    from reverie.insight.glossary import ENTRIES

    texts = {
        name: html.unescape(re.sub(r"<[^>]+>", "", site[f"reference/{name}/index.html"]))
        for name in ("commands", "settings", "metrics")
    }
    assert [name for name in COMMANDS if f"reverie {name}" not in texts["commands"]] == []
    assert "--csv, " not in texts["commands"]
    assert texts["commands"].count("--latex") >= 3
    assert [key for key, item in SETTINGS.items() if key not in texts["settings"]] == []
    assert "released: 1, Atari 4, control 2" in texts["settings"]
    assert [entry.key for entry in ENTRIES if entry.key not in texts["metrics"]] == []


def test_no_page_fetches_anything_from_elsewhere(site):
    for name, page in site.items():
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"?([^\"> ]+)", page)
        fetched += re.findall(r"<link[^>]+href=\"?([^\"> ]+)", page)
        assert [url for url in fetched if url.startswith(("http:", "https:", "//"))] == [], name
