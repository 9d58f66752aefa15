"""Reverie: DreamerV2, a discrete world model and a policy that is trained in its dreams.

agent = reverie.Dreamer("CartPole-v1", preset="vector")
agent.learn(env_steps=10_000)
agent.save("cartpole")
act = reverie.load("cartpole").player()
"""

from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "Config",
    "Dreamer",
    "DreamerV2",
    "Player",
    "UserError",
    "check_env",
    "load",
    "load_player",
    "load_preset",
    "make_env",
]

_HOMES = {
    "Callback": "run.callbacks",
    "Config": "config",
    "load_preset": "config.presets",
    "Dreamer": "api",
    "load": "api",
    "DreamerV2": "train",
    "Player": "player",
    "load_player": "api",
    "UserError": "errors",
    "make_env": "envs",
    "check_env": "envs.check",
}


def __getattr__(name: str) -> Any:
    """Names are imported when they are first used: `import reverie` pulls in no torch and no environments."""
    if name not in _HOMES:
        raise AttributeError(f"module 'reverie' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
