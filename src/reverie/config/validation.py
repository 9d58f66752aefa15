"""Types and ranges of settings; what is wrong is said in sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def coerce(value: Any, kind: Any) -> Any:
    """Turn text or a YAML value into `kind`; ValueError says what was expected and found."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        raise TypeError(f"union settings are not supported: {kind}")  # a fault of ours, not the user's
    if origin is Literal:
        if value not in get_args(kind):
            raise ValueError(f"must be one of {', '.join(get_args(kind))}, got {value!r}")
        return value
    if origin is tuple:
        items = _without_brackets(value.strip()).split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError(f"must be a list like 5,5,6,6, got {value!r}")
        items = [item.strip() if isinstance(item, str) else item for item in items]
        return tuple(coerce(item, get_args(kind)[0]) for item in items if item != "")
    if kind is bool:
        known = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        if isinstance(value, bool) or str(value).lower() in known:
            return value if isinstance(value, bool) else known[str(value).lower()]
        raise ValueError(f"must be true or false, got {value!r}")
    if kind is str:
        if isinstance(value, str):
            if _CONTROL.search(value):  # no name; printed, it would command the terminal
                raise ValueError(f"must have no control characters, got {value[:80]!r}")
            return value
        raise ValueError(f"must be text, got {value!r}")
    return _number(value, kind)


def _without_brackets(text: str) -> str:
    """ "(5, 5)" and "[5, 5]" without their brackets; those that belong to a name, as in "cam[0]", stay."""
    depth = least = 0
    for letter in text[1:-1]:
        depth += (letter in "([") - (letter in ")]")
        least = min(least, depth)
    wrapped = text[:1] + text[-1:] in ("()", "[]") and least >= 0
    return text[1:-1] if wrapped and len(text) > 1 else text


def _short(value: Any) -> str:
    """What was found, in a few words; a number of thousands of digits has no text."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of more digits than can be shown"
    return text if len(text) <= 80 else f"{text[:80]} ..."


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be {'a whole' if kind is int else 'a'} number, got {value!r}")
    if kind is int and str(value).strip().lstrip("+-").isdecimal():
        return int(value)  # not through float, which is exact to 2^53 only
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"must be {'a whole' if kind is int else 'a'} number, got {_short(value)}") from None
    if kind is int:
        if number != number or number in (float("inf"), float("-inf")) or number != int(number):
            raise ValueError(f"must be a whole number, got {value!r}")
        return int(number)
    return number


def names_code(env_id: str) -> bool:
    """Would making this environment import a module that the id names? `gymnasium.make("module:Name-v0")` does."""
    return ":" in env_id and not env_id.startswith("custom:")


_POSITIVE = [
    "env.num_envs",
    "env.action_bound",
    "env.worker_timeout",
    "env.weights_every",
    "replay.replay_capacity",
    "model.num_categories",
    "model.num_categoricals",
    "model.gaussian_dim",
    "model.rnn_hidden_dim",
    "model.hidden_dim",
    "model.layers",
    "model.cnn_depth",
    "model.world_model_lr",
    "model.overshooting_decay",
    "model.reward_unit",
    "behavior.imagination_horizon",
    "behavior.actor_lr",
    "behavior.critic_lr",
    "behavior.slow_critic_every",
    "behavior.slow_critic_fraction",
    "behavior.actor_critic_layers",
    "behavior.action_hold",
    "ensemble.member_layers",
    "ensemble.member_dim",
    "ensemble.ensemble_lr",
    "ensemble.start_share",
    "hierarchy.windows",
    "hierarchy.goal_variables",
    "hierarchy.goal_classes",
    "hierarchy.goal_layers",
    "hierarchy.goal_dim",
    "hierarchy.goal_lr",
    "train.env_steps",
    "train.train_ratio",
    "train.batch_size",
    "train.eval_episodes",
    "train.adam_eps",
    "train.grad_clip",
    "train.log_every",
    "train.checkpoint_every",
    "log.keep_checkpoints",
]
_UNIT = [
    "replay.priority_share",
    "replay.demo_share",
    "model.kl_balance",
    "model.unimix",
    "model.overshooting_decay",
    "behavior.gamma",
    "behavior.lambda_",
    "behavior.actor_grad_mix",
    "behavior.explore_noise",
    "behavior.explore_wander",
    "behavior.policy_unimix",
    "behavior.entropy_target",
    "behavior.entropy_target_final",
    "ensemble.explore_entropy",
    "ensemble.reward_momentum",
    "hierarchy.manager_entropy",
    "hierarchy.worker_entropy",
    "train.adam_beta2",
]
#: Of any whole number: torch and NumPy count to twice that.
MOST_OF_ALL = 2**62
#: More than is ever meant; a hostile configuration may ask for it.
_MOST = {
    "env.num_envs": 100_000,
    "env.image_size": 10_000,
    "model.layers": 1000,
    "model.overshooting_depth": 100_000,
    "behavior.actor_critic_layers": 1000,
    "behavior.imagination_horizon": 100_000,
    "behavior.action_hold": 100_000,
    "ensemble.members": 1000,
    "ensemble.member_layers": 1000,
    "ensemble.member_dim": 1_000_000,
    "hierarchy.goal_every": 10_000,
    "hierarchy.windows": 1000,
    "hierarchy.goal_variables": 10_000,
    "hierarchy.goal_classes": 10_000,
    "hierarchy.goal_layers": 1000,
    "hierarchy.goal_dim": 1_000_000,
    "compute.threads": 1024,
    "log.keep_checkpoints": 1_000_000,
    "log.keep_videos": 1_000_000,
    "train.seed": 2**32 - 1,  # what NumPy's old generators take, and with them many environments
}
_WIDTHS = ("num_categories", "num_categoricals", "gaussian_dim", "rnn_hidden_dim", "hidden_dim", "cnn_depth")
_MOST |= {f"model.{name}": 1_000_000 for name in (*_WIDTHS, "rssm_hidden_dim")}
_BELOW_ONE = ("model.unimix", "behavior.policy_unimix", "train.adam_beta2", "ensemble.reward_momentum")
_HEADS = ("obs", "reward", "continue")


def invalid(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> list[str]:
    """Values out of range, and values that contradict each other, as sentences. values, kinds: {"group.name": ...}."""
    unknown = {key for key, value in values.items() if isinstance(value, float) and value != value}
    if unknown:  # which is neither above nor below any limit
        return [f"'{key}' must be a number, got nan" for key in sorted(unknown)]
    faults = [f"'{key}' must be above 0, got {values[key]}" for key in _POSITIVE if not values[key] > 0]
    faults += [f"'{key}' must be between 0 and 1, got {values[key]}" for key in _UNIT if not 0 <= values[key] <= 1]
    faults += [f"'{key}' must be below 1, got {values[key]}" for key in _BELOW_ONE if values[key] == 1]
    signed = {key for key, kind in kinds.items() if kind in (int, float)} - {*_POSITIVE, *_UNIT}
    faults += [f"'{key}' must not be negative, got {values[key]}" for key in sorted(signed) if not values[key] >= 0]
    limits = {key: MOST_OF_ALL for key, kind in kinds.items() if kind is int} | _MOST
    large = [(key, most) for key, most in limits.items() if values[key] > most]
    faults += [f"'{key}' must be at most {most:,}, got {values[key]}" for key, most in large]
    infinite = [k for k, v in values.items() if isinstance(v, float) and v in (float("inf"), float("-inf"))]
    faults += [f"'{key}' must be finite" for key in infinite]
    at_most_one = ("behavior.slow_critic_fraction", "ensemble.start_share")
    faults += [f"'{key}' must be at most 1, got {values[key]}" for key in at_most_one if values[key] > 1]
    faults += _of_ensembles(values) + _of_hierarchies(values)
    faults += [
        f"'model.detached_heads' may hold {', '.join(_HEADS)}, got '{name}'"
        for name in values["model.detached_heads"]
        if name not in _HEADS
    ]
    if values["model.continue_target"] == "discounted" and values["behavior.gamma"] == 0:
        faults.append("'model.continue_target' cannot be discounted with 'behavior.gamma' 0")
    if values["train.adam_eps_mode"] == "keras" and values["train.optimizer"] != "adam":
        faults.append("'train.adam_eps_mode' keras is about Adam: set 'train.optimizer' adam or the mode torch")
    if values["behavior.imagination_horizon"] == 1 and values["behavior.advantage"] == "released":
        faults.append(
            "'behavior.imagination_horizon' 1 leaves nothing to learn from with 'behavior.advantage' released, which "
            "drops the last step of each dream: set at least 2, or the advantage paper"
        )
    if values["train.weight_decay_mode"] == "per_update" and values["train.weight_decay"] >= 1:
        faults.append(
            f"'train.weight_decay' must be below 1, got {values['train.weight_decay']}: it shrinks weights to 0"
        )
    if values["model.overshooting_depth"] < 2:
        faults.append(f"'model.overshooting_depth' must be at least 2, got {values['model.overshooting_depth']}")
    length, size, streams = values["train.seq_len"], values["env.image_size"], max(1, values["env.num_envs"])
    depth, ahead = values["model.overshooting_depth"], ("model.overshooting", "model.open_loop_heads")
    if any(values[key] for key in ahead) and depth >= length:
        asked = " and ".join(f"'{key}'" for key in ahead if values[key])
        faults.append(
            f"{asked} with 'model.overshooting_depth' {depth} does not fit into sequences of 'train.seq_len' {length} "
            f"steps: set that depth to {length - 1} at most"
        )
    if values["env.async_collect"] and values["train.deterministic"]:
        faults.append("'env.async_collect' acts with whatever weights there are: leave 'train.deterministic' off")
    faults += _of_collectors(values)
    if length < 2:
        faults.append(f"'train.seq_len' must be at least 2, got {length}")
    if size and size < 4:
        faults.append(f"'env.image_size' must be 0 or at least 4 pixels, got {size}")
    per_env = values["replay.replay_capacity"] // streams
    if per_env < 2 * length:
        faults.append(
            f"'replay.replay_capacity' {values['replay.replay_capacity']} leaves {per_env} steps per environment, "
            f"at least 2 x seq_len = {2 * length} are needed ('env.num_envs' is {streams})"
        )
    return faults


def _of_ensembles(values: Mapping[str, Any]) -> list[str]:
    """What contradicts itself about the ensemble and who uses it, as sentences."""
    members, faults = values["ensemble.members"], []
    if members == 1:
        faults.append("'ensemble.members' 1 cannot disagree with itself: set at least 2, or 0 for no ensemble")
    users = {
        "behavior.explore=ensemble": values["behavior.explore"] == "ensemble",
        "behavior.uncertainty_penalty": values["behavior.uncertainty_penalty"] > 0,
    }
    faults += [
        f"'{key}' needs an ensemble: set 'ensemble.members' 5" for key, on in users.items() if on and not members
    ]
    if values["ensemble.collect"] == "task" and values["behavior.explore"] == "none":
        faults.append("'ensemble.collect' is about a run that explores: leave it, or set 'behavior.explore' ensemble")
    if values["behavior.explore"] == "ensemble" and not (
        values["ensemble.intrinsic_weight"] or values["ensemble.extrinsic_weight"]
    ):
        faults.append("'ensemble.intrinsic_weight' and 'ensemble.extrinsic_weight' are both 0: nothing to explore for")
    return faults


def _of_collectors(values: Mapping[str, Any]) -> list[str]:
    """What contradicts itself about collectors elsewhere, as sentences."""
    count, envs = values["env.num_collectors"], values["env.num_envs"]
    if values["env.collectors"] == "none":
        about = "is about collectors elsewhere: set 'env.collectors' local or ray, or it to 0"
        return [f"'env.num_collectors' {count} {about}"] if count else []
    faults = []
    if count > envs:
        faults.append(
            f"'env.num_collectors' {count} cannot share 'env.num_envs' {envs}: set 'env.num_envs' to {count} at least"
        )
    if values["train.deterministic"]:
        faults.append("'env.collectors' act with whatever weights have come: leave 'train.deterministic' off")
    if values["env.async_collect"]:
        faults.append("'env.async_collect' is about acting in this process: leave it off, or 'env.collectors' none")
    if values["model.own_modules"]:
        faults.append("'env.collectors' have no networks of your own ('model.own_modules'): set it to none")
    return faults


def _of_hierarchies(values: Mapping[str, Any]) -> list[str]:
    """What contradicts itself about a hierarchy, as sentences."""
    if not values["hierarchy.goal_every"]:
        return []
    faults = []
    if values["hierarchy.goal_every"] == 1:
        faults.append("'hierarchy.goal_every' 1 is a new goal at each step: set at least 2, or 0 for no hierarchy")
    if values["hierarchy.goal_classes"] == 1:
        faults.append("'hierarchy.goal_classes' 1 leaves nothing to choose: set at least 2")
    others = {"behavior.explore": "none", "behavior.uncertainty_penalty": 0.0, "behavior.bc_scale": 0.0}
    others |= {"behavior.cloning": False}
    faults += [
        f"'{key}' is not combined with a hierarchy: leave it, or set 'hierarchy.goal_every' 0"
        for key, off in others.items()
        if values[key] != off
    ]
    return faults


#: Settings that may differ when a run is continued; everything else makes it another run.
MAY_CHANGE = (
    "train.env_steps", "train.minutes", "train.eval_", "train.random_baseline", "train.checkpoint_", "train.log_",
    "train.on_nonfinite", "ensemble.collect", "env.collectors", "env.num_collectors", "env.weights_every",
    "replay.demos",
    "compute.", "log.",
)  # fmt: skip


def may_change() -> str:
    """The settings that may differ when a run is continued, as a sentence."""
    groups = [f"{name}*" if name.endswith((".", "_")) else name for name in MAY_CHANGE]
    return f"May change in a run: {', '.join(groups)}."
