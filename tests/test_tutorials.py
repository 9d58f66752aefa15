"""Every Python block of the tutorials and guides runs, page by page, in order; smallest networks, 150 steps."""

import re
from pathlib import Path

import pytest

import reverie
from reverie import api

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
    for folder in ("tutorials", "guide")
    for path in sorted((ROOT / "docs" / folder).glob("*.md"))
}
BLOCKS = {page: re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M) for page, text in PAGES.items()}


class QuickDreamer(api.Dreamer):
    """The agent that a page asks for, as small as `debug`, and with a budget of 150 steps."""

    def __init__(self, env=None, *, preset="auto", **settings):
        super().__init__(env, preset=f"{preset}+debug", **settings)

    def learn(self, env_steps=None, **rest):
        assert env_steps is not None
        assert env_steps > 150
        return super().learn(150, quiet=True, **rest)


@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks])
def test_every_block_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reverie, "Dreamer", QuickDreamer, raising=False)
    names = {"__name__": "page"}
    for number, block in enumerate(BLOCKS[page]):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


def test_there_is_a_page_for_every_phase_of_the_design():
    text = PAGES["tutorials/build-it-yourself.md"]
    assert [f"## Phase {number}" in text for number in (1, 2, 3, 4)] == [True] * 4
    assert len(BLOCKS["tutorials/build-it-yourself.md"]) >= 8


def test_every_page_is_short():
    """Read in five minutes: a longer one is two."""
    assert [page for page, text in PAGES.items() if len(text.split()) > 1500] == []


def test_troubleshooting_begins_with_the_four_issues_of_the_design():
    headings = re.findall(r"^## (.*)$", PAGES["guide/troubleshooting.md"], re.M)[:4]
    words = ("posterior collapse", "categorical degeneracy", "unstable training", "poor imagination")
    assert [word in heading for word, heading in zip(words, headings, strict=True)] == [True] * 4
