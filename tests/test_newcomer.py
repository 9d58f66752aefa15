"""The four tasks of a newcomer, each done in a copy of the source: no other file needs an edit, no other test fails.

Another KL loss (1 file), another environment family (1), another latent (at most 2), another head (at most 2).
Every edit quotes the place that CONTRIBUTING.md sends a newcomer to; where that place moves, adapt the quote here.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_words import places

ROOT = Path(__file__).resolve().parents[1]
#: What the tests read besides the source; never edited here.
READ_ONLY = ("docs", "examples", "benchmarks", "README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", ".ci")
TRAIN = (
    "train", "--preset", "debug", "--env", "CartPole-v1", "--run", "run", "env_steps=80", "prefill=50", "seq_len=4",
    "train_ratio=0.1", "log_every=1e-9", "health_every=1", "eval_episodes=1", "tensorboard=false", "video=false",
)  # fmt: skip
#: Without the tests that start a process per module: what a newcomer's class imports is in the table that is tested.
LAYOUT = (
    "tests/test_architecture.py",
    "--deselect",
    "tests/test_architecture.py::test_a_fresh_process_loads_no_more_than_it_needs",
)


class Clone:
    """A copy of the source in which a newcomer works; everything runs in processes that import from it alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "src" / "reverie"
        self.edited: set[str] = set()
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "src" / "reverie", self.package, ignore=skip)
        shutil.copytree(ROOT / "tests", root / "tests", ignore=skip)
        for name in READ_ONLY:
            if (ROOT / name).exists():
                (root / name).symlink_to(ROOT / name)

    def read(self, file: str) -> str:
        """The text of a file of the package."""
        return (self.package / file).read_text(encoding="utf-8")

    def write(self, file: str, text: str) -> None:
        """Write a file of the package, old or new; it counts as edited."""
        (self.package / file).write_text(text, encoding="utf-8")
        self.edited.add(file)

    def replace(self, file: str, old: str, new: str) -> None:
        """Edit a piece that occurs exactly once."""
        text = self.read(file)
        assert text.count(old) == 1, f"{file} has no single {old!r} any more: adapt this test"
        self.write(file, text.replace(old, new))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`python -m WORDS` in the copy."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")} | {
            "PYTHONPATH": str(self.package.parent),  # before the installed package
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "REVERIE_MUTANT": str(self.package),  # tests/conftest.py makes sure that it is this copy that is imported
        }
        command = [sys.executable, "-m", *words]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    def assert_tests_pass(self, *words: str) -> None:
        """These tests, none of them missing, and no word of the list that was not there before."""
        done = self.run("pytest", "-p", "no:cacheprovider", "-m", "not slow", *words)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        there = {self.without_number(place) for place in places()}
        found = self.run("tests.test_words").stdout.splitlines()
        assert [place for place in found if place and self.without_number(place) not in there] == []

    @staticmethod
    def without_number(place: str) -> str:
        """ "run/loop.py:12: ..." -> "run/loop.py: ...": an edit moves the lines below it."""
        return re.sub(r":\d+:", ":", place, count=1)

    def train(self) -> list[dict[str, float]]:
        """Some updates of the smallest preset. -> the rows of metrics.jsonl."""
        done = self.run("reverie", *self.train_words)
        assert done.returncode == 0, done.stderr[-3000:]
        rows = [json.loads(line) for line in (self.root / "run" / "metrics.jsonl").read_text().splitlines()]
        assert max(row.get("updates", 0) for row in rows) >= 2
        return rows

    train_words: tuple[str, ...] = TRAIN


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


def logged(rows: list[dict[str, float]]) -> dict[str, float]:
    """The last value of every metric."""
    return {key: value for row in rows for key, value in row.items()}


# ------------------------------------------------------------------------------------------------------------- KL loss


def first_use(source: str, function: str, name: str) -> tuple[int, int]:
    """Line and column (from 0) where a function first uses a name."""
    (node,) = (x for x in ast.walk(ast.parse(source)) if isinstance(x, ast.FunctionDef) and x.name == function)
    uses = [x for statement in node.body for x in ast.walk(statement) if isinstance(x, ast.Name) and x.id == name]
    line, column = min((use.lineno, use.col_offset) for use in uses)
    return line - 1, column


def edit_kl(clone: Clone, new: str) -> None:
    """Put something else in place of the balance of `kl_loss`, where it is used first."""
    lines = clone.read("rssm.py").splitlines(keepends=True)
    line, column = first_use("".join(lines), "kl_loss", "kl_balance")
    assert lines[line][column:].startswith("kl_balance")
    lines[line] = lines[line][:column] + new + lines[line][column + len("kl_balance") :]
    clone.write("rssm.py", "".join(lines))


def broken_checks(clone: Clone) -> list[str]:
    """The names of what `reverie selftest` finds broken."""
    done = clone.run("reverie", "selftest", "--json")
    checks = json.loads(done.stdout)["checks"]
    broken = [check["name"] for check in checks if not check["ok"]]
    assert done.returncode == bool(broken)
    return broken


@pytest.mark.parametrize(
    ("new", "follows"),
    [
        ("0.5 * kl_balance", {"world model loss", "world model gradient"}),
        (
            "kl_balance + not_there",  # raises: no update is made
            {"what is predicted at t", "world model loss", "world model gradient"}
            | {"world model's update changes the world model only"},
        ),
    ],
)
def test_another_kl_loss_breaks_the_checks_of_the_kl_and_no_other(clone, new, follows):
    edit_kl(clone, new)
    broken = broken_checks(clone)
    assert broken[0] == "KL balanced"
    assert {name for name in broken if not name.startswith("KL ")} <= follows


def test_another_kl_loss_fails_no_test_of_layout_words_or_documents(clone):
    edit_kl(clone, "0.5 * kl_balance")
    assert clone.edited == {"rssm.py"}
    clone.assert_tests_pass("tests/test_docs.py", *LAYOUT)


# --------------------------------------------------------------------------------------------------- environment family

FROZEN_LAKE = '''"""Frozen Lake: walk over ice without falling into a hole. Needs gymnasium[toy-text].

Protocol: Gymnasium's own rewards and time limits (truncations).
"""

from __future__ import annotations

import gymnasium as gym

from ..family import FreeOptions, Request
from ..plain import make_plain, plain_protocol

PREFIXES = ("frozenlake", "frozenlake8x8")
MODULES = ("pygame",)
INSTALL = "pip install 'gymnasium[toy-text]>=1.1,<2'"
DEBIAN = ""
EXAMPLE = "FrozenLake-v1"
NOTE = "the number of the cell; pixels with env.pixels=true"
REPEAT = 1
DETERMINISTIC_START = True  # every episode starts in the same cell
SHORT = True  # random play can fall into a hole in two steps
Options = FreeOptions


def make(request: Request) -> gym.Env:
    """The task as Gymnasium makes it; with request.pixels its image."""
    return make_plain(request)


def protocol(request: Request) -> str:
    """What scores depend on."""
    return plain_protocol(request)
'''


@pytest.mark.slow
def test_another_family_is_one_file(clone):
    pytest.importorskip("pygame")
    clone.write("envs/families/frozen_lake.py", FROZEN_LAKE)
    assert clone.edited == {"envs/families/frozen_lake.py"}
    clone.assert_tests_pass("tests/envs/test_families.py", *LAYOUT, "-k", "frozen or test_architecture")
    shown = clone.run("reverie", "envs", "frozen_lake")
    assert shown.returncode == 0, shown.stderr
    assert "FrozenLake-v1" in shown.stdout


# --------------------------------------------------------------------------------------------------------------- latent

LAPLACE = '''

class LaplaceLatent(Latent):
    """Independent Laplace variables, as a newcomer would add them. P = 2Z: mean and raw scale."""

    def __init__(self, dim: int = 30) -> None:
        self.stoch_dim = dim
        self.stats_dim = 2 * dim

    def noise(
        self, *batch: int, device: torch.device | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Standard Laplace. -> (*batch, Z)."""
        uniform = torch.rand(*batch, self.stoch_dim, device=device, generator=generator).clamp(1e-6, 1 - 1e-6) - 0.5
        return -uniform.sign() * torch.log1p(-2 * uniform.abs())

    def mean_scale(self, stats: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2Z) -> mean (..., Z), scale (..., Z)."""
        mean, raw = stats.float().chunk(2, -1)
        return mean, softplus(raw) + 0.1

    def sample(self, stats: Tensor, noise: Tensor) -> Tensor:
        """stats (..., 2Z), noise (..., Z) -> (..., Z)."""
        mean, scale = self.mean_scale(stats)
        return mean + scale * noise

    def mode(self, stats: Tensor) -> Tensor:
        """The mean. stats (..., 2Z) -> (..., Z)."""
        return self.mean_scale(stats)[0]

    def kl(self, left: Tensor, right: Tensor) -> Tensor:
        """KL(left || right), summed over dimensions, in nats. (..., 2Z), (..., 2Z) -> (...)."""
        (m1, b1), (m2, b2) = self.mean_scale(left), self.mean_scale(right)
        gap = (m1 - m2).abs()
        return (torch.log(b2 / b1) + (b1 * torch.exp(-gap / b1) + gap) / b2 - 1).sum(-1)

    def entropy(self, stats: Tensor) -> Tensor:
        """Differential entropy, summed over dimensions, in nats. (..., 2Z) -> (...)."""
        return (1 + torch.log(2 * self.mean_scale(stats)[1])).sum(-1)

    def summary(self, stats: Tensor) -> dict[str, Tensor]:
        """The width of the distribution, for the log. (..., 2Z) -> {name: ()}."""
        return {"scale": self.mean_scale(stats)[1].mean()}
'''


@pytest.mark.slow
def test_another_latent_is_one_class_and_its_name(clone):
    clone.write("latents.py", clone.read("latents.py").rstrip("\n") + "\n" + LAPLACE)
    clone.replace(
        "latents.py",
        '"gaussian": _gaussian}',
        '"gaussian": _gaussian, "laplace": lambda s: LaplaceLatent(s["gaussian_dim"])}',
    )
    choices = 'Literal["categorical", "gaussian"]'
    if choices in clone.read("config/settings.py"):  # the settings load no torch, so they may name the choices
        clone.replace("config/settings.py", choices, 'Literal["categorical", "gaussian", "laplace"]')
    assert len(clone.edited) <= 2

    clone.train_words = (*TRAIN, "model.latents=laplace")
    found = logged(clone.train())
    assert "latent/scale" in found
    assert found["world_model/kl"] >= 0
    refused = clone.run("reverie", "train", "--preset", "debug", "--env", "CartPole-v1", "model.latents=cauchy")
    assert refused.returncode == 2
    assert "laplace" in refused.stderr
    clone.assert_tests_pass("tests/config/test_config.py", "tests/insight/test_glossary.py", *LAYOUT)


# ----------------------------------------------------------------------------------------------------------------- head

START = '''

class StartPredictor(Head):
    """Is this the first step of an episode? As a newcomer would add it. feat (..., F) -> probability (...)."""

    metrics_doc: ClassVar[Mapping[str, MetricDoc]] = {
        "loss": MetricDoc("Loss of the prediction of first steps.", "nats", "Falls towards 0.", "Train longer."),
        "hits": MetricDoc("Share of steps that are classified right.", "share", "Rises to 1.", "Train longer."),
    }
    target = "start"

    def __init__(self, feat_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(feat_dim, 1)

    def forward(self, feat: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(feat).squeeze(-1).float())

    def loss(self, feat: Tensor, target: Tensor) -> Tensor:
        """feat (..., F), target (...) of 0 and 1 -> (...)."""
        logits = self.linear(feat).squeeze(-1).float()
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")

    def target_of(self, batch: Any, obs: Mapping[str, Tensor]) -> Tensor:
        """What it is trained on. Batch of (B, T, ...) -> (B, T)."""
        return batch.is_first.float()

    def metrics(self, feat: Tensor, target: Tensor) -> dict[str, Tensor]:
        """feat (B, T, F), target (B, T) -> {name: ()}."""
        return {"hits": ((self(feat) > 0.5) == (target > 0.5)).float().mean()}
'''


@pytest.mark.slow
def test_another_head_is_one_class_and_its_line(clone):
    clone.write("networks.py", clone.read("networks.py").rstrip("\n") + "\n" + START)
    clone.replace("build.py", "    ContinuePredictor,\n", "    ContinuePredictor,\n    StartPredictor,\n")
    clone.replace("build.py", "    return heads, scales\n",
                  '    heads["start"] = StartPredictor(feat_dim)\n    return heads, scales\n')  # fmt: skip
    assert clone.edited == {"networks.py", "build.py"}

    found = logged(clone.train())
    assert found["world_model/start_loss"] >= 0
    assert 0 <= found["world_model/start_hits"] <= 1
    for key, meaning in {"start_loss": "first steps", "start_hits": "Share of steps"}.items():
        explained = clone.run("reverie", "explain", f"world_model/{key}")
        assert explained.returncode == 0, explained.stderr
        assert meaning in explained.stdout
    clone.assert_tests_pass("tests/insight/test_glossary.py", *LAYOUT)
