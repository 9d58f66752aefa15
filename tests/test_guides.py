"""The examples in the guides run as they are printed, with small budgets."""

import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"
TINY = 'preset="debug", env_steps=120, eval_episodes=1, forecast=False, random_baseline=False, tensorboard=False'
#: Page -> what makes its Python blocks short: text -> text. Every one must be found.
SHORTER = {
    "callbacks.md": {'preset="vector"': f"{TINY}, video=False", "env_steps=1000": "env_steps=120"},
    "sharing.md": {
        'preset="vector"': f"{TINY}, video=False",
        "env_steps=4000": "env_steps=120",
        "episodes=20": "episodes=1",
    },
    "modules.md": {'preset="vector"': f"{TINY}, video=False", "env_steps=2000": "env_steps=120"},
}


def blocks(page):
    """The Python blocks of a page as one program."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S))


@pytest.fixture
def guide(in_tmp):
    """Run the blocks of a page. -> its names."""

    def go(page):
        text = blocks(page)
        for old, new in SHORTER[page].items():
            assert old in text, f"{page}: {old}"
            text = text.replace(old, new)
        names = {"__name__": "__main__"}
        exec(compile(text, page, "exec"), names)
        return names

    return go


def test_callbacks(guide, capsys):
    names = guide("callbacks.md")
    assert names["agent"].stopped_by in ("train.env_steps", "Watch", "StopAtReturn")
    out = capsys.readouterr().out
    assert re.search(r"^step \d+: return [\d.]+ after \d+ steps$", out, re.M)
    assert "RunHistory(" in out


def test_modules(guide, capsys):
    names = guide("modules.md")
    model = names["again"].agent.world_model
    assert isinstance(model.encoder.net, names["Encoder"])
    assert isinstance(model.rssm.latent, names["Bits"])
    assert "Evaluation(return" in capsys.readouterr().out
    losses = names["agent"].history.metrics["world_model/reward_median_loss"]  # NaN: a line without an update
    assert (losses[~np.isnan(losses)] >= 0).all()
    assert not np.isnan(losses).all()


def test_sharing(guide, in_tmp, capsys):
    pytest.importorskip("matplotlib", reason="cards have curves")
    guide("sharing.md")
    assert "Evaluation(return" in capsys.readouterr().out
    assert "| optimum | 500 |" in (in_tmp / "pole" / "README.md").read_text()
