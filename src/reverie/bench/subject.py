"""What is measured: settings, a task's description, random experience of the right shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..build import count_parameters, pick_device, require_device
from ..config import Config
from ..config.presets import load_preset
from ..data.replay import Batch
from ..envs.actions import ActionSpec
from ..envs.spaces import ObsKey, Spec
from ..errors import UserError
from ..fast.modes import seed_everything
from ..run.forecast import memory_left, random_rows
from ..run.tasks import make_envs, spec_of
from ..train import DreamerV2

#: Actions of a task without an environment.
ASSUMED_ACTIONS = 6
#: Different batches taken in turn, as many of them as fit into this many bytes.
BATCHES, BATCH_BYTES = 4, 256_000_000


@dataclass(frozen=True)
class Subject:
    """Settings and a task's description; source: where the description is from, in words."""

    config: Config
    spec: Spec
    source: str

    def agent(self) -> DreamerV2:
        """A new one, with torch's threads and seed as set. Raises UserError for a device that is not there."""
        seed_everything(self.config)
        return DreamerV2(self.config, self.spec)

    def facts(self, agent: DreamerV2 | None = None) -> dict[str, Any]:
        """Plain values for JSON."""
        train = self.config.train
        facts: dict[str, Any] = {
            "env": self.config.env.id,
            "num_envs": self.config.env.num_envs,
            "sees": self.spec.describe(),
            "shapes_from": self.source,
            "batch_size": train.batch_size,
            "seq_len": train.seq_len,
        }
        if agent is not None:
            facts |= {"device": str(agent.device), "mode": agent.mode, "precision": str(agent.dtype).split(".")[1]}
            facts |= {"threads": torch.get_num_threads(), "trained_parameters": count_parameters(agent)}
            facts |= {"parameters": sum(parameter.numel() for parameter in agent.parameters())}
        return facts


def make_subject(
    preset: str,
    overrides: Mapping[str, Any],
    *,
    shape: Sequence[int] = (),
    actions: int = 0,
    needs_env: bool = False,
) -> Subject:
    """What is to be measured, from the options of a command line. Raises UserError.

    shape: (H, W, C) of an image, (V,) of a vector, or () for what the preset's environment gives; without one,
    64x64x3. actions: how many discrete ones, 0 for the environment's. needs_env: a real environment is required.
    """
    config = load_preset(preset, overrides)
    require_device(config.compute.device)  # an error should come before anything is made
    if needs_env and (shape or actions):
        raise UserError("a real environment is stepped here, with its own shapes.", "Leave out --shape and --actions.")
    if needs_env or not (shape or actions):
        spec, reason = _of_env(config, required=needs_env or "env.id" in overrides)
        if spec is not None:
            return Subject(config, spec, config.env.id)
        source = f"assumed: {reason}"
    else:
        source = "the command line"
    key = _observation(shape or _default_shape(config))
    return Subject(config, Spec({str(key.path[0]): key}, ActionSpec.discrete(actions or ASSUMED_ACTIONS)), source)


def _of_env(config: Config, *, required: bool) -> tuple[Spec | None, str]:
    """The environment's own description, or why there is none."""
    if not config.env.id:
        if required:
            raise UserError("no environment is given.", "Name one with --env; `reverie envs` lists some.")
        return None, "no --env"
    try:
        envs = make_envs(config, None, 1, backend="sync")
    except UserError as error:
        if required:
            raise
        return None, error.message
    try:
        return spec_of(envs), ""
    finally:
        envs.close()


def _default_shape(config: Config) -> tuple[int, int, int]:
    size = config.env.image_size or 64
    return size, size, 1 if config.env.grayscale else 3


def _observation(shape: Sequence[int]) -> ObsKey:
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise UserError(
            f"--shape {' '.join(map(str, shape))} is neither an image nor a vector.",
            "Write H W C, e.g. --shape 64 64 3, or the length of a vector.",
        )
    sizes = tuple(shape)
    if len(sizes) == 1:
        return ObsKey(("vector",), "vector", sizes, sizes)
    return ObsKey(("image",), "image", sizes, sizes, "hwc")


# ----------------------------------------------------------------------------------------------------------- experience


def batch_bytes(subject: Subject) -> int:
    """Bytes of one batch as it is replayed."""
    steps = subject.config.train.batch_size * subject.config.train.seq_len
    sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in subject.spec.shapes.values()]
    return steps * (sum(sizes) + 4 * subject.spec.action.size + 7)


def require_possible(subject: Subject) -> None:
    """Raises UserError if not even images, their reconstruction and its gradient would fit into memory."""
    train, device = subject.config.train, pick_device(subject.config.compute.device)
    numbers = sum(int(np.prod(shape)) for shape, _ in subject.spec.shapes.values())
    need = train.batch_size * train.seq_len * numbers * 3 * 4 + batch_bytes(subject)
    left = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory_left()
    if left is not None and need > left:
        raise UserError(
            f"a batch of {train.batch_size} x {train.seq_len} needs at least {need / 1e9:.3g} GB, {left / 1e9:.3g} GB "
            "are available.",
            "Set a smaller --batch or --length.",
        )


@contextmanager
def user_error_if_too_large() -> Iterator[None]:
    """Turn running out of memory into a UserError: the sizes are the user's choice."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UserError("there is not enough memory for this.", "Set a smaller --batch or --length.") from error
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise UserError("there is not enough memory for this.", "Set a smaller --batch or --length.") from error


def random_batches(subject: Subject) -> list[Batch]:
    """Different batches as a replay would give them. -> arrays (B, T, ...)."""
    count = max(1, min(BATCHES, BATCH_BYTES // batch_bytes(subject)))
    return [random_batch(subject, seed) for seed in range(count)]


def random_batch(subject: Subject, seed: int = 0) -> Batch:
    """Random windows; each begins with a reset, and in a quarter of them an episode ends. -> arrays (B, T, ...)."""
    rng = np.random.default_rng(seed)
    batch, length = subject.config.train.batch_size, subject.config.train.seq_len
    first, last, terminal = (np.zeros((batch, length), bool) for _ in range(3))
    first[:, 0] = True
    if length > 1:
        rows = np.arange(0, batch, 4)
        ends = rng.integers(0, length - 1, len(rows))
        last[rows, ends], first[rows, ends + 1] = True, True
        terminal[rows[::2], ends[::2]] = True
    action = subject.spec.action.random(rng, batch * length).reshape(batch, length, -1)
    action[first] = np.nan  # as in storage, see the drawing in `replay.py`
    reward = np.where(first, 0, rng.standard_normal((batch, length))).astype(np.float32)
    obs = random_rows(subject.spec, batch, length, seed)
    return Batch(obs, action.astype(np.float32), reward, first, last, terminal)
