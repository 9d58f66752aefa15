"""The released TensorFlow DreamerV2, for `benchmarks/peers.py`: its own `Agent`, unchanged.

It is 2.2.0 from PyPI, which is not the repository's last code.

Its `train.py` asserts a GPU, so the agent is built here from its own configuration `defaults` + `atari`. It was written
for TensorFlow 2.6; on 2.15 two names have moved and are put back before it is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import distribution, version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf
from protocol import Contestant, Size, random_batches, random_images, serve


def put_back_names() -> None:
    """What the released code imports and this TensorFlow lacks."""
    precision = import_module("tensorflow.keras.mixed_precision")  # tf.keras.mixed_precision is another object
    precision.experimental = SimpleNamespace(global_policy=precision.global_policy)
    tf.optimizers.Adam = tf.keras.optimizers.legacy.Adam  # the new Adam has another interface
    sys.modules["gym"] = ModuleType("gym")  # imported for environments, of which none is made
    sys.path.insert(0, str(package()))  # its modules import each other by their bare names


def package() -> Path:
    return Path(str(distribution("dreamerv2").locate_file("dreamerv2")))


def configuration(size: Size) -> Any:
    """`defaults` + `atari`, then the sizes; float32 where the default is float16."""
    import common
    from ruamel.yaml import YAML

    read = YAML(typ="safe").load((package() / "configs.yaml").read_text())
    heads = {f"{head}.units": size.units for head in ("reward_head", "discount_head", "actor", "critic")}
    config = common.Config(read["defaults"]).update(read["atari"])
    return config.update(
        {
            "precision": 32,
            "rssm.hidden": size.deter,
            "rssm.deter": size.deter,
            "encoder.cnn_depth": size.cnn_depth,
            "decoder.cnn_depth": size.cnn_depth,
            "dataset.batch": size.batch,
            "dataset.length": size.length,
            **heads,
        }
    )


def spaces(size: Size) -> tuple[dict[str, Any], dict[str, Any]]:
    """As its environment wrappers describe them; only shapes and `n` are read."""
    scalar = SimpleNamespace(shape=())
    obs = {"image": SimpleNamespace(shape=size.image)}
    obs |= dict.fromkeys(("reward", "is_first", "is_last", "is_terminal"), scalar)
    return obs, {"action": SimpleNamespace(shape=(size.actions,), n=size.actions)}


class Actor:
    """One step of acting as its driver does it: NumPy in, NumPy out, the state kept."""

    def __init__(self, agent: Any, size: Size, count: int) -> None:
        self.agent, self.state, self.count = agent, None, count
        no, reward = np.zeros(count, bool), np.zeros(count, np.float32)
        self.obs = {"image": random_images(size, count), "reward": reward, "is_last": no, "is_terminal": no}

    def __call__(self, first: bool) -> np.ndarray:
        obs = self.obs | {"is_first": np.full(self.count, first)}
        outputs, self.state = self.agent.policy(obs, self.state, mode="train")
        return np.array(outputs["action"])


def count(agent: Any) -> int:
    """Trainable parameters and the slow critic's, once the first update has made them."""
    behaviour = agent._task_behavior
    modules = [agent.wm.encoder, agent.wm.rssm, *agent.wm.heads.values()]
    modules += [behaviour.actor, behaviour.critic, behaviour._target_critic]
    return sum(int(np.prod(v.shape)) for module in modules for v in module.trainable_variables)


def make(size: Size, options: dict[str, Any]) -> Contestant:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.random.set_seed(0)
    put_back_names()
    import agent as released
    import common

    agent = released.Agent(configuration(size), *spaces(size), common.Counter(0))
    train = common.CarryOverState(agent.train)  # as train.py calls it
    batches = [{key: tf.constant(value) for key, value in arrays.items()} for arrays in random_batches(size)]
    return Contestant(
        update=lambda number: float(train(batches[number])["model_loss"]),  # a number exists when the work is done
        acting=lambda count: Actor(agent, size, count),
        parameters=lambda: count(agent),
        version=f"dreamerv2 {version('dreamerv2')}, tensorflow-cpu {tf.__version__}",
        differences=["float32, its default is float16"],
    )


if __name__ == "__main__":
    serve(make)
