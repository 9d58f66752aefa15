"""What goes beside a saved agent so that others can judge and use it: a card, results, curves, videos, a few episodes.

No pickle: text, JSON, safetensors, PNG and GIF. The card is README.md with the metadata that the Hugging Face Hub
reads; its text may be edited afterwards, all else is in the manifest.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save

from .. import __version__
from ..config import Config
from ..errors import UserError
from ..insight.dream import dream
from ..insight.drift import drift
from ..insight.frames import frames
from ..insight.plots import drift_plot, learning_curve, require_matplotlib, vector_plot
from ..insight.run_reader import Experience, RunReader, Segment, open_run
from ..insight.video import write_video
from ..run.evaluation import Evaluation
from ..run.lines import newest_values, read_lines
from ..run.tasks import protocol_of_task

#: What `card={...}` may say besides; all of it is optional.
OPTIONS = ("name", "description", "random", "optimum", "license", "command")
#: Steps of the replay that go with the agent, in whole episodes: a dream, and the player in the browser, start there.
STEPS = 200


@dataclass
class Score:
    """An evaluation, and what it is to be compared with."""

    result: Evaluation
    mode: str
    seed: int  # of `Dreamer.evaluate`
    random: float | None = None  # mean return of the random policy
    optimum: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields that others on the hub have, and ours."""
        found = self.result
        return {
            "mean_reward": found.mean,
            "std_reward": float(np.std(found.scores)),
            "is_deterministic": self.mode == "eval",
            "n_eval_episodes": len(found.scores),
            "eval_datetime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "ci95": None if math.isnan(found.interval) else found.interval,
            "mode": self.mode,
            "seed": self.seed,
            "random": self.random,
            "optimum": self.optimum,
            "scores": found.scores,
            "lengths": found.lengths,
        }


@dataclass
class Card:
    """The files beside an agent."""

    config: Config
    score: Score
    options: Mapping[str, Any]
    training: dict[str, Any] = field(default_factory=dict)  # how far the run was
    files: dict[str, str | bytes] = field(default_factory=dict)
    drift: str = ""  # a sentence

    @property
    def name(self) -> str:
        """Of the agent."""
        return str(self.options.get("name") or f"dreamerv2-{self.config.env.id}")


def check_options(card: bool | Mapping[str, Any]) -> Mapping[str, Any]:
    """What `save(card=...)` was given, as a dict; refuses what cannot be drawn before any work. Raises UserError."""
    if not isinstance(card, bool | Mapping):
        raise UserError(f"card must be True or a dict, got {str(card)[:60]!r}.", f"A dict takes {', '.join(OPTIONS)}.")
    options = {} if isinstance(card, bool) else dict(card)
    unknown = [str(key) for key in options if key not in OPTIONS]
    if unknown:
        raise UserError(f"card has no '{unknown[0]}'.", f"It takes {', '.join(OPTIONS)}.")
    for key in ("random", "optimum"):
        value = options.get(key)
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise UserError(f"card: {key} must be a number, got {str(value)[:60]!r}.")
    require_matplotlib()
    return options


def random_level(run: Path) -> float | None:
    """Mean return of the random policy, where the run has measured it."""
    found = [line["return"] for line in read_lines(run / "episodes.jsonl") if line["phase"] == "random"]
    return float(np.mean(found)) if found else None


def make_card(config: Config, score: Score, options: Mapping[str, Any], run: Path | None) -> dict[str, str | bytes]:
    """The files of a card by name. run: with logs and replay of the agent; None: only its score is known."""
    card = Card(config, score, options)
    with TemporaryDirectory() as folder:
        if score.result.frames:
            card.files["episode.gif"] = write_video(Path(folder) / "e.gif", score.result.frames, fps=8).read_bytes()
        if run is not None:
            _add_curves(card, run, Path(folder))
    card.files["results.json"] = json.dumps(_results(card), indent=1)
    card.files["README.md"] = _readme(card)
    return card.files


def _add_curves(card: Card, run: Path, folder: Path) -> None:
    card.training = newest_values(run / "metrics.jsonl", ("env_steps", "updates", "frames"))
    card.files["learning_curve.png"] = learning_curve(run, title=card.config.env.id, to=folder / "c.png").read_bytes()
    reader = open_run(run)
    if reader.experience is None or not len(reader.experience):
        return
    try:
        found = drift(reader)
        card.drift = f"The dream is better than guessing for {found.useful} steps."
        card.files["drift.png"] = drift_plot(found, folder / "d.png", title=card.config.env.id).read_bytes()
        card.files |= _dream(reader, folder)
    except UserError as error:  # episodes are too short for it
        card.drift = f"How long the dream is better than guessing was not measured: {error.message}"
    card.files |= excerpt(reader.experience)


def _dream(reader: RunReader, folder: Path) -> dict[str, bytes]:
    found = dream(reader, horizon=30, samples=2)
    if found.images:
        return {"dream.gif": write_video(folder / "dream.gif", frames(found), fps=6).read_bytes()}
    return {"dream.png": vector_plot(found, folder / "dream.png").read_bytes()}


def excerpt(experience: Experience, steps: int = STEPS) -> dict[str, str | bytes]:
    """The newest whole episodes with about so many steps, as a file of a replay's log; {} without a whole episode."""
    chosen: list[dict[str, np.ndarray]] = []
    for rows in reversed(experience.episodes()):
        if chosen and sum(len(x["reward"]) for x in chosen) + len(rows["reward"]) > steps:
            break
        chosen.insert(0, {key: value[:steps] for key, value in rows.items()})
    if not chosen:
        return {}
    joined = Segment({key: np.ascontiguousarray(np.concatenate([x[key] for x in chosen])) for key in chosen[0]})
    span = {"first": json.dumps([0]), "last": json.dumps([len(joined)])}
    return {f"replay/steps-{len(joined):012d}.safetensors": save(joined.rows, span)}


def _results(card: Card) -> dict[str, Any]:
    return card.score.to_dict() | {
        "env_id": card.config.env.id,
        "training_seed": card.config.train.seed,
        "protocol": protocol_of_task(card.config),
        "training": card.training,
        "reverie": __version__,
    }


def _readme(card: Card) -> str:
    score, config = card.score.to_dict(), card.config
    task = config.env.id
    reward = f"{score['mean_reward']:.2f} +/- {score['std_reward']:.2f}"
    head = {
        "library_name": "reverie",
        "tags": [task, "deep-reinforcement-learning", "reinforcement-learning", "world-model", "dreamer"],
        "model-index": [
            {
                "name": card.name,
                "results": [
                    {
                        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
                        "dataset": {"name": task, "type": task},
                        "metrics": [{"type": "mean_reward", "value": reward, "name": "mean_reward", "verified": False}],
                    }
                ],
            }
        ],
    } | ({"license": card.options["license"]} if "license" in card.options else {})
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n" + "\n".join(_text(card))


def _text(card: Card) -> list[str]:
    score, config = card.score, card.config
    found = score.result
    known = [("this agent", f"{found.mean:.3f}{found.spread}")]
    known += [("random policy", f"{score.random:.3f}")] if score.random is not None else []
    known += [("optimum", f"{score.optimum:g}")] if score.optimum is not None else []
    seeds = f"environment seeds from {20_000 + 1000 * score.seed}, training seed {config.train.seed}"
    lines = [f"# {card.name}", ""]
    lines += [str(card.options.get("description", f"A DreamerV2 agent for {config.env.id}, trained with Reverie.")), ""]
    lines += ["| | return of an episode |", "|---|---|", *(f"| {name} | {value} |" for name, value in known), ""]
    lines += [f"Mean and 95 % interval over {len(found.scores)} episodes, {score.mode} mode; {seeds}.", ""]
    lines += [f"Protocol: {protocol_of_task(config)}.", ""]
    if card.training:
        lines += [f"Training: {', '.join(f'{value:,g} {key}' for key, value in card.training.items())}.", ""]
    lines += [f"Made by: `{card.options['command']}`", ""] if "command" in card.options else []
    lines += [card.drift, ""] if card.drift else []
    titles = {
        "learning_curve.png": "Returns while training",
        "drift.png": "Errors of the dream by its length",
        "dream.gif": "What happened, and dreams of the same actions",
        "dream.png": "What happened, and dreams of the same actions",
        "episode.gif": "An episode",
    }
    lines += [f"![{title}]({name})\n" for name, title in titles.items() if name in card.files]
    use = "act = reverie.load_player(FOLDER)           # or hf://USER/NAME; action = act(obs, first=True)"
    watch = "reverie watch FOLDER                        # play inside its dream"
    lines += ["```python", "import reverie", use, "```", "", "```bash", watch, "```", ""]
    lines += ["The weights are safetensors, the rest is text and JSON: loading runs no code of this folder.", ""]
    return lines
