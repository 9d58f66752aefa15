"""Play an agent that Reverie exported, with NumPy and onnxruntime: neither torch nor Reverie. MIT, like Reverie.

    policy = Policy("policy.onnx")              # policy.json lies beside it
    action = policy(obs, first=True)            # obs as the environment gives it -> what env.step takes

`first` starts an episode (the very first call needs no mark). Where the task has action masks in info, pass them:
mask=info["action_mask"]. With Policy(..., num_envs=4), observations, actions and `first` have a leading axis.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime


class Policy:
    """Observation in, action out; the recurrent state is kept between calls."""

    def __init__(self, file, num_envs=None, seed=0):
        self.face = json.loads(Path(file).with_suffix(".json").read_text(encoding="utf-8"))
        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.single, self.count, self.rng = num_envs is None, num_envs or 1, np.random.default_rng(seed)
        self.state = {p["name"]: self.zeros(p) for p in self.face["inputs"] if p["role"] == "state"}
        self.fresh = True

    def zeros(self, port):
        """An input of the right form."""
        return np.zeros((self.count, *port["shape"]), port["dtype"])

    def __call__(self, obs, first=False, mask=None):
        where = self.face["mask_in_observation"]
        given = {"observation": obs, "mask": entry(obs, where) if where else mask}
        feed = dict(self.state, is_first=np.broadcast_to(np.asarray(first, bool) | self.fresh, (self.count,)))
        for port in self.face["inputs"]:
            if port["role"] in given:
                feed[port["name"]] = fitting(port, entry(given[port["role"]], port["path"]), self.zeros(port))
            elif port["role"] in ("uniform", "normal"):
                draw = self.rng.random if port["role"] == "uniform" else self.rng.standard_normal
                feed[port["name"]] = draw((self.count, *port["shape"]), dtype=np.float32)
        names = [port["name"] for port in self.face["outputs"]]
        found = dict(zip(names, self.session.run(names, feed), strict=True))
        self.state, self.fresh = {name: found["next_" + name] for name in self.state}, False
        actions = [(port["path"], found[port["name"]]) for port in self.face["outputs"] if port["role"] == "action"]
        return nested([(path, native(value[0]) if self.single else value) for path, value in actions])


def entry(value, path):
    """The part of a nested observation or mask."""
    for key in path:
        value = None if value is None else value[key]
    return value


def fitting(port, value, like):
    """A value as the graph takes it. Raises ValueError for one that the agent was not trained on."""
    if port["role"] == "mask":
        pieces = value if isinstance(value, tuple | list) else [like + 1 if value is None else value]
        value = np.concatenate([np.reshape(piece, (len(like), -1)) for piece in pieces], -1) > 0
    value = np.asarray(value)
    if like.dtype == np.uint8 and value.dtype.kind == "f":
        if value.size and value.max() <= 1 and (value % 1).any():
            raise ValueError(f"{port['name']} holds 0 to 1, the agent was trained with 0 to 255")
        value = np.clip(np.rint(value), 0, 255)
    if value.size != like.size or not np.isfinite(value).all():
        raise ValueError(f"{port['name']} must be finite and of shape {like.shape}, got {value.shape}")
    if "low" in port and not ((value >= port["low"]) & (value <= port["high"])).all():
        raise ValueError(f"{port['name']} must be {port['low']} to {port['high']}, got {value.tolist()}")
    return value.reshape(like.shape).astype(like.dtype)


def native(value):
    """A plain int where the environment wants one."""
    return int(value) if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iu" else np.asarray(value)


def nested(items):
    """[(path, value)] -> nested dicts and tuples."""
    if not items[0][0]:
        return items[0][1]
    keys = list(dict.fromkeys(path[0] for path, _ in items))
    inner = {key: nested([(path[1:], value) for path, value in items if path[0] == key]) for key in keys}
    return tuple(inner.values()) if isinstance(keys[0], int) else inner
