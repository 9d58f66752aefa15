"""Settings: typed, documented, never changed after they are made. Values live in presets/*.yaml, the code in here.

Every field has a default (the design document's number where it gives one) and one line of explanation, which is what
`reverie train --help` prints. Leaf names are unique, so `gamma=0.97` means `behavior.gamma=0.97`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import UserError


def opt(default: Any, doc: str) -> Any:
    """A dataclass field with its one-line documentation."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class EnvConfig:
    """The task and how it is presented to the agent."""

    id: str = opt("", "Gymnasium id of the task, e.g. MiniGrid-Empty-Random-6x6-v0, CartPole-v1")
    num_envs: int = opt(1, "environments stepped together")
    backend: Literal["sync", "async"] = opt("sync", "sync: in this process; async: one process per environment")
    actions: Literal["full", "minimal"] = opt(
        "full", "full: all actions; minimal: those that matter, where the task's family knows"
    )
    image_size: int = opt(64, "images are resized to this many pixels squared; 0 keeps the environment's own size")
    grayscale: bool = opt(False, "turn colour images into one grey channel")
    pixels: bool = opt(False, "observe the rendered picture instead of the environment's own observation")
    action_repeat: int = opt(1, "each action is applied this many times, rewards added up; frames = steps x repeat")
    time_limit: int = opt(0, "cut episodes after this many steps (a truncation, not an end); 0: the environment's own")


@dataclass(frozen=True)
class ReplayConfig:
    """What is remembered and what is replayed."""

    replay_capacity: int = opt(2_000_000, "steps kept (released code: 2e6)")
    storage: Literal["memory", "disk"] = opt("memory", "disk keeps the steps in memory-mapped files of the run")
    prioritize: Literal["none", "ends", "rewards"] = opt(
        "none", "ends: oversample windows with an episode end; rewards: windows with a reward other than zero"
    )
    priority_share: float = opt(0.25, "share of a batch drawn by `prioritize`; the rest is uniform")


@dataclass(frozen=True)
class ModelConfig:
    """The world model: sizes, losses, optimiser."""

    latents: Literal["categorical", "gaussian"] = opt("categorical", "gaussian is DreamerV1's latent")
    num_categories: int = opt(32, "classes of each categorical (design document)")
    num_categoricals: int = opt(32, "categorical variables in a state (design document)")
    gaussian_dim: int = opt(30, "size of the Gaussian latent (DreamerV1)")
    rnn_hidden_dim: int = opt(200, "size of the deterministic state h (design document; Atari: 600)")
    hidden_dim: int = opt(400, "units of every hidden layer (design document)")
    embed_dim: int = opt(1024, "size of an embedded observation (design document); 0: whatever the encoder gives")
    layers: int = opt(4, "hidden layers of encoder MLP and heads (released code)")
    cnn_depth: int = opt(32, "channels of the first convolution; doubled by each next one (32 gives 1024 at 64x64)")
    decoder_kernels: tuple[int, ...] = opt((), "empty: mirror of the encoder, any size; 5,5,6,6: released code, 64x64")
    norm: bool = opt(True, "LayerNorm in dense layers (design document; released Atari code: no)")
    conv_norm: bool = opt(True, "LayerNorm in convolutions (design document; released Atari code: no)")
    gru_norm: bool = opt(True, "LayerNorm in the recurrent cell (released code: always)")
    zero_init: bool = opt(False, "reward head and critic answer 0 at first (a DreamerV3 idea; released V2 code: no)")
    activation: Literal["elu", "relu", "silu"] = opt("elu", "activation everywhere (design document)")
    vector_transform: Literal["none", "symlog", "standardize"] = opt(
        "none", "vector observations: as they are (released code), squashed, or scaled to what the prefill showed"
    )
    reward_transform: Literal["symlog", "tanh", "sign", "none"] = opt(
        "symlog", "what the reward head learns (design document: symlog; released code: tanh on Atari, none on DMC)"
    )
    predict_continue: bool = opt(True, "learn when episodes end; without it every dream goes on")
    kl_mode: Literal["balanced", "bidirectional"] = opt(
        "balanced", "balanced: the paper's Algorithm 2; bidirectional: the design document's literal formula"
    )
    kl_balance: float = opt(0.8, "share of the KL gradient that trains the prior (design document)")
    kl_scale: float = opt(1.0, "weight of the KL (released code: 1, Atari 0.1)")
    free_nats: float = opt(1.0, "nats below which the KL is not pushed further down (design document; Atari: 0)")
    free_avg: bool = opt(True, "compare free nats with the batch mean (released code) instead of with every state")
    image_scale: float = opt(1.0, "weight of the image loss")
    vector_scale: float = opt(1.0, "weight of the vector loss")
    reward_scale: float = opt(1.0, "weight of the reward loss")
    continue_scale: float = opt(1.0, "weight of the continue loss (released Atari code: 5)")
    world_model_lr: float = opt(3e-4, "learning rate (design document)")


@dataclass(frozen=True)
class BehaviorConfig:
    """Actor and critic, trained in imagination."""

    imagination_horizon: int = opt(15, "steps of a dream (design document)")
    imagination_starts: int = opt(0, "dreams per update, drawn from the batch's states; 0: from every state (paper)")
    gamma: float = opt(0.99, "discount per step (design document; Atari 0.999)")
    lambda_: float = opt(0.95, "lambda of the returns (design document)")
    actor_lr: float = opt(8e-5, "learning rate (design document)")
    critic_lr: float = opt(8e-5, "learning rate (design document)")
    policy: Literal["auto", "onehot", "trunc_normal", "tanh_normal"] = opt(
        "auto", "auto: onehot for discrete, trunc_normal for continuous actions (released code)"
    )
    actor_grad: Literal["auto", "reinforce", "dynamics", "both"] = opt(
        "auto", "auto: reinforce for discrete, dynamics for continuous actions (released code)"
    )
    actor_grad_mix: float = opt(0.1, "share of dynamics gradients in `both` (released code)")
    entropy_scale: float = opt(1e-3, "weight of the policy's entropy (paper: 1e-3 Atari, 1e-4 control)")
    entropy_final: float = opt(1e-3, "the weight after `entropy_decay` updates (paper's schedules: 3e-3 to 3e-4)")
    entropy_decay: int = opt(0, "updates over which the weight goes linearly to `entropy_final`; 0: it stays")
    baseline: Literal["online", "slow"] = opt("online", "critic subtracted in the advantage (paper: online)")
    slow_critic: bool = opt(True, "compute targets with a copy of the critic (paper); off: with the critic itself")
    slow_critic_every: int = opt(100, "updates between copies (paper)")
    actor_critic_layers: int = opt(4, "hidden layers of actor and critic (released code)")
    explore_noise: float = opt(0.0, "share of random actions in explore mode (released code: none)")


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    seed: int = opt(0, "seeds everything: networks, environments, replay, exploration")
    env_steps: int = opt(1_000_000, "environment steps of the whole run, prefill included")
    minutes: float = opt(0.0, "stop after this much training time (evaluations not counted); 0: no limit")
    prefill: int = opt(1000, "random steps before learning")
    pretrain: int = opt(100, "updates on the prefilled data before acting (released code: 100 on DMC)")
    train_ratio: float = opt(0.2, "updates per environment step (released code: 1/5 default, 1/16 Atari)")
    batch_size: int = opt(50, "sequences in a batch (design document)")
    seq_len: int = opt(50, "steps of a sequence (design document)")
    eval_every: int = opt(10_000, "environment steps between evaluations; 0: only at the end")
    eval_episodes: int = opt(10, "episodes of an evaluation")
    random_baseline: bool = opt(True, "first play eval_episodes with random actions, if 10 seconds are enough for them")
    eval_mode: Literal["eval", "train"] = opt("eval", "eval: most likely action; train: sampled as in training")
    checkpoint_every: float = opt(300.0, "seconds between checkpoints; there is always one at the end")
    log_every: float = opt(5.0, "seconds between lines of metrics.jsonl")
    adam_eps: float = opt(1e-5, "Adam's epsilon (released code)")
    grad_clip: float = opt(100.0, "largest global gradient norm of each optimiser (released code)")
    weight_decay: float = opt(1e-6, "each update multiplies all weights by 1 minus this, at any learning rate")


@dataclass(frozen=True)
class ComputeConfig:
    """Where and how it is computed."""

    device: str = opt("auto", "auto: cuda if there is one, else cpu")
    threads: int = opt(0, "CPU threads of torch; 0: torch decides")
    precision: Literal["float32", "bfloat16"] = opt("float32", "bfloat16: autocast for products and convolutions")


@dataclass(frozen=True)
class LogConfig:
    """What a run leaves behind, besides metrics.jsonl and episodes.jsonl."""

    tensorboard: bool = opt(True, "write TensorBoard events to RUN/tensorboard")
    wandb: bool = opt(False, "also log to Weights & Biases (pip install wandb)")
    video: bool = opt(True, "write a GIF of one episode of each evaluation to RUN/videos")
    keep_checkpoints: int = opt(2, "newest checkpoints kept, besides the best one")


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run does. Written whole to RUN/config.yaml."""

    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    log: LogConfig = field(default_factory=LogConfig)


#: "group.name" -> (type, default, doc) for every setting there is.
SETTINGS: dict[str, tuple[Any, Any, str]] = {
    f"{group.name}.{item.name}": (
        get_type_hints(type(getattr(Config(), group.name)))[item.name],
        item.default,
        item.metadata["doc"],
    )
    for group in fields(Config)
    for item in fields(type(getattr(Config(), group.name)))
}
_LEAVES = {key.split(".")[1]: key for key in SETTINGS}


def flatten(config: Config) -> dict[str, Any]:
    """{"group.name": value} of every setting."""
    return {f"{group}.{name}": value for group, items in asdict(config).items() for name, value in items.items()}


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Nested plain values, ready for YAML or JSON (tuples become lists)."""
    return {
        group: {name: list(value) if isinstance(value, tuple) else value for name, value in items.items()}
        for group, items in asdict(config).items()
    }


def build(overrides: Mapping[str, Any], *, base: Config | None = None, where: str = "override") -> Config:
    """A new Config with some settings changed. All faults are reported together, each with what to do.

    overrides: {"group.name" or a unique "name": value, text or typed}. Raises UserError.
    """
    config, faults, changes = base or Config(), [], {}
    for key, value in overrides.items():
        full = key if key in SETTINGS else _LEAVES.get(key)
        if full is None:
            faults.append(_unknown(key, where))
            continue
        try:
            changes[full] = _coerce(value, SETTINGS[full][0])
        except ValueError as error:
            faults.append(f"{where} '{full}' {error}")
    groups: dict[str, dict[str, Any]] = {}
    for full, value in changes.items():
        group, name = full.split(".")
        groups.setdefault(group, {})[name] = value
    config = replace(config, **{group: replace(getattr(config, group), **items) for group, items in groups.items()})
    faults += _invalid(config)
    if faults:
        raise UserError(_sentence("; ".join(faults)), "`reverie presets --keys` lists every setting.")
    return config


def from_dict(nested: Mapping[str, Any], *, base: Config | None = None, where: str) -> Config:
    """Config from nested values (a YAML file, a checkpoint). Strict, like `build`."""
    flat: dict[str, Any] = {}
    for group, items in nested.items():
        if not isinstance(items, Mapping):
            raise UserError(f"{where}: '{group}' must hold settings, found {items!r}.", "Write `group:` and indent.")
        flat.update({f"{group}.{name}": value for name, value in items.items()})
    return build(flat, base=base, where=f"{where}:")


def preset_names() -> list[str]:
    """The presets that ship with the package."""
    files = resources.files("reverie").joinpath("presets").iterdir()
    return sorted(item.name[:-5] for item in files if item.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The YAML of a preset as shipped, comments (sources) included. Raises UserError for an unknown name."""
    if name not in preset_names():
        raise UserError(_sentence(f"there is no preset '{name}'{_nearest(name, preset_names())}"), _names_hint())
    return resources.files("reverie").joinpath("presets", f"{name}.yaml").read_text()


def load_preset(name: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """A preset's Config, with overrides on top. Raises UserError."""
    values = yaml.safe_load(preset_text(name)) or {}
    values.pop("description", None)
    return build(overrides or {}, base=from_dict(values, where=f"preset '{name}'"), where="setting")


def preset_description(name: str) -> str:
    """One sentence: what the preset is for."""
    return str((yaml.safe_load(preset_text(name)) or {}).get("description", "")).strip()


def load_file(path: Path) -> Config:
    """Config from a run's config.yaml. Raises UserError."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the configuration {path}: {error}.", "Is this the directory of a run?") from error
    if not isinstance(values, Mapping):
        raise UserError(f"{path} holds no settings.", "Is this the directory of a run?")
    return from_dict(values, where=str(path))


def _sentence(text: str) -> str:
    return text if text.endswith("?") else f"{text}."


def _names_hint() -> str:
    return f"Presets: {', '.join(preset_names())}."


def _nearest(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f", did you mean '{found[0]}'?" if found else ""


def _unknown(key: str, where: str) -> str:
    leaf = key.split(".")[-1]
    found = difflib.get_close_matches(key, SETTINGS, 1, 0.7) or [
        _LEAVES[x] for x in difflib.get_close_matches(leaf, _LEAVES, 1, 0.6)
    ]
    return f"{where} '{key}' does not exist" + (f", did you mean '{found[0]}'?" if found else "")


def _coerce(value: Any, kind: Any) -> Any:
    """Turn text or a YAML value into `kind`; ValueError says what was expected and found."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        raise TypeError(f"union settings are not supported: {kind}")  # a fault of ours, not the user's
    if origin is Literal:
        if value not in get_args(kind):
            raise ValueError(f"must be one of {', '.join(get_args(kind))}, got {value!r}")
        return value
    if origin is tuple:
        items = value.strip("()[] ").split(",") if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError(f"must be a list like 5,5,6,6, got {value!r}")
        return tuple(_coerce(item, get_args(kind)[0]) for item in items if item != "")
    if kind is bool:
        known = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        if isinstance(value, bool) or str(value).lower() in known:
            return value if isinstance(value, bool) else known[str(value).lower()]
        raise ValueError(f"must be true or false, got {value!r}")
    if kind is str:
        if isinstance(value, str):
            return value
        raise ValueError(f"must be text, got {value!r}")
    return _number(value, kind)


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be {'a whole' if kind is int else 'a'} number, got {value!r}")
    if kind is int and str(value).strip().lstrip("+-").isdecimal():
        return int(value)  # not through float, which is exact to 2^53 only
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"must be {'a whole' if kind is int else 'a'} number, got {value!r}") from None
    if kind is int:
        if number != number or number in (float("inf"), float("-inf")) or number != int(number):
            raise ValueError(f"must be a whole number, got {value!r}")
        return int(number)
    return number


_POSITIVE = {
    "env": ("num_envs", "action_repeat"),
    "replay": ("replay_capacity",),
    "model": (
        "num_categories",
        "num_categoricals",
        "gaussian_dim",
        "rnn_hidden_dim",
        "hidden_dim",
        "layers",
        "cnn_depth",
    ),
    "behavior": ("imagination_horizon", "actor_lr", "critic_lr", "slow_critic_every", "actor_critic_layers"),
    "train": ("env_steps", "train_ratio", "batch_size", "eval_episodes", "adam_eps", "grad_clip", "log_every"),
    "log": ("keep_checkpoints",),
}
_UNIT = {
    "replay": ("priority_share",),
    "model": ("kl_balance",),
    "behavior": ("gamma", "lambda_", "actor_grad_mix", "explore_noise"),
}


def _keys(groups: Mapping[str, Iterable[str]]) -> list[str]:
    return [f"{group}.{name}" for group, names in groups.items() for name in names]


def _invalid(config: Config) -> list[str]:
    """Values of the right type that make no sense, as sentences."""
    values = flatten(config)
    positive = [*_keys(_POSITIVE), "model.world_model_lr", "train.checkpoint_every"]
    unit = _keys(_UNIT)
    faults = [f"'{key}' must be above 0, got {values[key]}" for key in positive if not values[key] > 0]
    faults += [f"'{key}' must be between 0 and 1, got {values[key]}" for key in unit if not 0 <= values[key] <= 1]
    signed = {k for k, (kind, _, _) in SETTINGS.items() if kind in (int, float)} - set(positive) - set(unit)
    faults += [f"'{key}' must not be negative, got {values[key]}" for key in sorted(signed) if not values[key] >= 0]
    infinite = [k for k, v in values.items() if isinstance(v, float) and v in (float("inf"), float("-inf"))]
    faults += [f"'{key}' must be finite" for key in infinite]
    if config.train.seq_len < 2:
        faults.append(f"'train.seq_len' must be at least 2, got {config.train.seq_len}")
    if config.env.image_size and config.env.image_size < 4:
        faults.append(f"'env.image_size' must be 0 or at least 4 pixels, got {config.env.image_size}")
    per_env = config.replay.replay_capacity // max(1, config.env.num_envs)
    if per_env < 2 * config.train.seq_len:
        faults.append(
            f"'replay.replay_capacity' {config.replay.replay_capacity} leaves {per_env} steps per environment, "
            f"at least 2 x seq_len = {2 * config.train.seq_len} are needed"
        )
    return faults


def _check_unique() -> None:
    if len(_LEAVES) != len(SETTINGS) or not is_dataclass(Config):
        raise RuntimeError("two settings share a leaf name")


_check_unique()
