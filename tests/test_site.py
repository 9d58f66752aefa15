"""The documents as a site: `mkdocs build --strict` has no warning, and no page fetches anything from elsewhere."""

import html
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
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
def target(tmp_path_factory):
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def site(target):
    """The built site. -> {page: HTML}."""
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
    assert {"contributing.html", "changelog.html", "examples.html"} <= set(site)


def test_reference_has_signatures_and_docstrings(site):
    page = site["reference/rssm.html"]
    assert 'id="reverie.rssm.DiscreteRSSM.kl_loss"' in page
    assert "kl_balance" in page
    assert 'id="reverie.rssm.demo"' not in page
    assert 'id="reverie.api.Dreamer.learn"' in site["reference/api.html"]


def test_formulas_are_mathml(site):
    page = site["equations.html"]
    assert page.count("<math") > 50
    assert "arithmatex" not in page
    text = re.sub(r"<[^>]+>", "", page)
    assert "\\hat" not in text
    assert "$" not in text


def test_examples_are_shown(site):
    listed = set(pages(CONFIG["nav"]))
    for path in (ROOT / "examples").glob("*.py"):
        assert f'href="examples/{path.stem}.html"' in site["examples.html"]
        assert f"examples/{path.stem}.md" in listed
        assert "import" in site[f"examples/{path.stem}.html"]


def test_every_command_setting_and_metric_is_in_the_reference(site):
    """Each with what the code says about it."""
    from reverie.commands import COMMANDS
    from reverie.config import SETTINGS
    from reverie.insight.glossary import ENTRIES

    texts = {
        name: html.unescape(re.sub(r"<[^>]+>", "", site[f"reference/{name}.html"]))
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


def test_the_search_works_in_a_page_from_the_disk(site, target):
    """Its index is a script, a page without a server has no other; links name files, for no server finds index.html."""
    index = (target / "search" / "search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index = {")
    assert "free nats" in index
    assert all("iframe-worker.js" in page for name, page in site.items() if not name.startswith("benchmarks/"))
    links = set(re.findall(r'href="([^"#?:]*)[#"]', site["index.html"])) - {""}
    assert [link for link in links if link.endswith("/")] == []
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("no Chromium: apt install chromium, or set CHROMIUM=/path")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((target / "guide" / "which-preset.html").as_uri())
        found = page.locator(".md-search-result__item a.md-search-result__link")
        for words in ("free nats", "nats") * 15:  # what is asked before the page's scripts are ready is not answered
            page.locator("[data-md-component=search-query]").fill(words)
            with suppress(playwright.TimeoutError):
                found.first.wait_for(timeout=4_000)
                break
        found.first.wait_for(timeout=4_000)
        if shots := os.environ.get("REVERIE_SHOTS"):
            page.screenshot(path=str(Path(shots) / "search.png"))
        found.first.click()
        page.locator("h1").first.wait_for()
        assert page.url.startswith((target / "").as_uri())
        assert "which-preset" not in page.url
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
        browser.close()
