"""Configuration: typed settings with defaults and limits (`settings`, `validation`), text to settings and back
(`parsing`), and presets (`presets`, `presets/*.yaml`)."""

from .parsing import SETTINGS, PlainLoader, Setting, as_sentence, build, flatten, from_dict, load_file, to_dict
from .settings import (
    BehaviorConfig,
    ComputeConfig,
    Config,
    EnsembleConfig,
    EnvConfig,
    LogConfig,
    ModelConfig,
    ReplayConfig,
    TrainConfig,
)

__all__ = [
    "SETTINGS",
    "BehaviorConfig",
    "ComputeConfig",
    "Config",
    "EnsembleConfig",
    "EnvConfig",
    "LogConfig",
    "ModelConfig",
    "PlainLoader",
    "ReplayConfig",
    "Setting",
    "TrainConfig",
    "as_sentence",
    "build",
    "flatten",
    "from_dict",
    "load_file",
    "to_dict",
]
