"""What a score depends on besides the agent, as facts; and why two scores may not be compared, one sentence each."""

from __future__ import annotations

from typing import Any

from ..config import Config
from ..envs import make_request
from ..envs.families.crafter import with_reward
from ..envs.family import all_families, family_of
from .record import PROTOCOLS, task_key, tasks

#: How a fact reads in a sentence.
WORDS = {
    "suite": "the suite",
    "actions": "the action set",
    "action_repeat": "the action repeat",
    "sticky": "the probability of sticky actions",
    "noop_max": "the number of no-ops at the start",
    "max_frames": "the limit of an episode in frames",
    "lives": "what a lost life does",
    "grayscale": "gray images",
    "pixels": "learning from pixels",
    "episode_steps": "the length of an episode",
    "look": "the rendering",
    "reward": "learning with reward",
    "time_limit": "a time limit set by the user (0 is none)",
    "scored": "which episodes count",
}
#: Settings that make no other agent and no other task: runs that differ in these alone are seeds of one experiment.
NOT_THE_EXPERIMENT = (
    "train.seed", "train.env_steps", "train.minutes", "train.eval_every", "train.eval_episodes",
    "train.random_baseline", "train.checkpoint_every", "train.forecast", "train.log_every", "train.log_steps",
    "train.deterministic", "env.backend", "env.worker_timeout", "compute.", "log.", "replay.storage",
)  # fmt: skip


def facts_of(config: Config, line: str = "") -> dict[str, Any]:
    """What a run's scores depend on. line: the protocol as its family put it, which knows what "auto" became."""
    env = config.env
    request = make_request(
        env.id,
        actions=env.actions,
        pixels=env.pixels,
        action_repeat=env.action_repeat,
        time_limit=env.time_limit,
        image_size=env.image_size,
        grayscale=env.grayscale,
        options=env.options,
    )
    family = family_of(env.id)
    suite = next((name for name, each in all_families().items() if each is family), "gymnasium")
    facts: dict[str, Any] = {"suite": suite, "action_repeat": request.repeat, "time_limit": env.time_limit}
    if suite == "atari":
        options = request.options
        limit = min(options.max_frames, env.time_limit * request.repeat or options.max_frames)
        facts |= {"actions": env.actions, "sticky": options.sticky, "noop_max": options.noop_max, "max_frames": limit}
        facts |= {"lives": options.lives, "grayscale": env.grayscale}
    elif suite == "dmc":
        steps = min(1000, env.time_limit * request.repeat or 1000)
        facts |= {"pixels": env.pixels, "episode_steps": steps}
        standard = request.options.look == "standard" or "standard look" in line
        facts |= {"look": "standard" if standard else "fast"} if env.pixels else {}
    elif suite == "crafter":
        facts |= {"reward": with_reward(env.id)}
    return facts | {"eval_mode": config.train.eval_mode}


def mismatches(facts: dict[str, Any], reference: str) -> list[str]:
    """Why scores under `facts` must not be compared with a reference, as sentences; empty if they may."""
    found = []
    for key, published in PROTOCOLS[reference].items():
        if key == "scored":
            if published.startswith("evaluation") and facts.get("eval_mode") != "eval":
                found.append("which episodes count: evaluations sample their actions here, the most likely one there")
        elif facts.get(key) != published:
            found.append(f"{WORDS[key]}: {_shown(facts.get(key))} here, {_shown(published)} there")
    return found


def references_of(facts: dict[str, Any], env_id: str) -> list[str]:
    """The references that have this task, best match first."""
    key = task_key(env_id)
    found = [name for name in PROTOCOLS if PROTOCOLS[name]["suite"] == facts["suite"]]
    found = [name for name in found if name == "crafter" or key in tasks(name)]
    return sorted(found, key=lambda name: len(mismatches(facts, name)))


def experiment(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that make an experiment what it is: without seeds, budgets, hardware and logging."""
    return {key: value for key, value in settings.items() if not key.startswith(NOT_THE_EXPERIMENT)}


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {None: "not so", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
