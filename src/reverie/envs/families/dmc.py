"""DeepMind Control suite, from joint angles and velocities or from a camera. pip: dm-control, mujoco below version 4.

Protocol: repeat 2, episodes of 1000 control steps (a truncation: the tasks do not end), the task's own rewards summed
over the repeat. Proprio: the suite's own entries, scalars included. Pixels: camera 0 (quadruped: 2).

On a CPU the suite needs 24 to 51 ms to draw an image. Without shadows, reflections and multisampling, and with a
camera that is kept (`physics.render` makes a new one each time), it takes 0.6 to 2 ms: look=fast.
"""

from __future__ import annotations

import colorsys
import difflib
import os
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ...errors import UserError
from ..adapters import space_of
from ..family import Request, option
from ..rendering import DEBIAN as DEBIAN_OF_RENDERING
from ..rendering import choose_renderer, on_software

PREFIXES = ("dmc", "dm_control")
MODULES = ("dm_control", "mujoco")
INSTALL = "pip install 'dm-control>=1.0.50' 'mujoco>=3.17,<4'"
DEBIAN = DEBIAN_OF_RENDERING
EXAMPLE = "dmc/walker-walk"
NOTE = "joint angles and velocities; with env.pixels=true a camera, repeat 2"
REPEAT = 2
#: Cameras other than 0, as in the published runs: from there the task can be seen.
CAMERAS = {"quadruped": 2}
RENDER_SIZE = 240  # pixels a side of images for videos


@dataclass(frozen=True)
class Options:
    """How the camera draws, and what is changed in the task."""

    look: Literal["auto", "fast", "standard"] = option(
        "auto", "fast: no shadows and reflections; standard: as the suite draws; auto: fast if a CPU draws"
    )
    camera: int = option(-1, "number of the camera; -1: the usual one")
    gravity: float = option(1.0, "in shares of the usual one")
    mass: float = option(1.0, "of all bodies, in shares of the usual one")
    friction: float = option(1.0, "of all surfaces, in shares of the usual one")
    damping: float = option(1.0, "of all joints, in shares of the usual one")
    hue: int = option(0, "degrees to turn the colors of bodies and targets by; only images show it")


def make(request: Request) -> gym.Env:
    """The task; one step is request.repeat control steps."""
    domain, task = _names(request.env_id)
    if request.pixels:
        choose_renderer()  # before MuJoCo is imported
    elif not os.environ.get("MUJOCO_GL"):
        os.environ["MUJOCO_GL"] = "egl"  # the default needs a display as soon as a video is made
    warnings.filterwarnings("ignore", module="dm_control")
    from dm_control import suite

    known = [f"{d}-{t}" for d, t in suite.ALL_TASKS]
    if (domain, task) not in suite.ALL_TASKS:
        close = difflib.get_close_matches(f"{domain}-{task}", known, 3, 0.5) or ["walker-walk", "cartpole-swingup"]
        raise UserError(f"the suite has no task '{domain}-{task}'.", f"Did you mean {', '.join(close)}?")
    options = request.options or Options()
    camera = options.camera if options.camera >= 0 else CAMERAS.get(domain, 0)
    size = request.image_size or 64
    env = suite.load(domain, task)
    _change(env.physics, options)
    return Control(env, request.repeat, camera, pixels=size * request.pixels, fast=_fast(options))


def protocol(request: Request) -> str:
    """What scores depend on; with pixels this includes the renderer."""
    observation = "joint angles and velocities"
    if request.pixels:
        options, domain = request.options or Options(), _names(request.env_id)[0]
        camera = options.camera if options.camera >= 0 else CAMERAS.get(domain, 0)
        observation = f"camera {camera}, {'fast' if _fast(options) else 'standard'} look, drawn by {choose_renderer()}"
    line = f"{request.env_id}: {observation}, action repeat {request.repeat}, 1000 control steps (truncated)"
    return line + "".join(f", {name} {value:g}" for name, value in _changes(request.options or Options()).items())


def _changes(options: Options) -> dict[str, float]:
    """What is changed in the task: name -> value. Raises UserError for shares that physics does not survive."""
    names = ("gravity", "mass", "friction", "damping", "hue")
    for name in names[:-1]:
        if not 0 < getattr(options, name) <= 100:
            raise UserError(f"env.options: {name} must be above 0 and at most 100.", "1 is the usual one.")
    usual = Options()
    return {name: getattr(options, name) for name in names if getattr(options, name) != getattr(usual, name)}


def _change(physics: Any, options: Options) -> None:
    """Change masses, forces and colors of a model; a reset leaves them as they are."""
    if not _changes(options):
        return
    from dm_control.mujoco.wrapper.mjbindings import mjlib

    model = physics.model
    model.opt.gravity *= options.gravity
    model.body_mass[:] *= options.mass
    model.body_inertia[:] *= options.mass
    model.geom_friction[:] *= options.friction
    model.dof_damping[:] *= options.damping
    if options.hue:
        for rgba in (*model.mat_rgba, *model.geom_rgba):  # rows of the model itself
            hue, *rest = colorsys.rgb_to_hsv(*map(float, rgba[:3]))
            rgba[:3] = colorsys.hsv_to_rgb((hue + options.hue / 360) % 1, *rest)
    mjlib.mj_setConst(model.ptr, physics.data.ptr)  # what MuJoCo derives from masses


def _names(env_id: str) -> tuple[str, str]:
    """ "dmc/ball_in_cup-catch" -> ("ball_in_cup", "catch"). Raises UserError."""
    domain, dash, task = env_id.partition("/")[2].removesuffix("-v0").partition("-")
    if not dash:
        raise UserError(f"'{env_id}' is not of the form dmc/DOMAIN-TASK.", f"E.g. {EXAMPLE}, dmc/ball_in_cup-catch.")
    return {"cup": "ball_in_cup"}.get(domain, domain), task


def _fast(options: Options) -> bool:
    return options.look == "fast" or (options.look == "auto" and on_software(choose_renderer()))


class Control(gym.Env):
    """A task of the suite, `repeat` control steps at a time; observations are its own entries, or an image.

    pixels: side of the observed image; 0 for the entries, and then nothing is drawn unless `render` is called.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's own form)
    render_mode = "rgb_array"

    def __init__(self, env: Any, repeat: int, camera: int, *, pixels: int = 0, fast: bool = True) -> None:
        self.env = env
        self.repeat = repeat
        self.camera = camera
        self.pixels = pixels
        self.fast = fast
        self._cameras: dict[int, Any] = {}  # size of the image -> camera
        self.action_space = space_of(env.action_spec())
        self._scalars = {key for key, spec in env.observation_spec().items() if len(spec.shape) != 1}
        entries = space_of(env.observation_spec(), unlimited=True)
        image = spaces.Box(0, 255, (pixels, pixels, 3), np.uint8)
        self.observation_space = image if pixels else entries
        if pixels and fast:
            self._prepare(pixels)

    def _prepare(self, size: int) -> None:
        """Turn off multisampling and limit the buffer's size, which is possible only before the first image."""
        look = self.env.physics.model.vis
        look.quality.offsamples = 0
        look.global_.offwidth = look.global_.offheight = max(size, RENDER_SIZE)

    def _observe(self, entries: Any) -> Any:
        if self.pixels:
            return self._draw(self.pixels)
        observation = {key: np.array(value, np.float32) for key, value in entries.items()}
        for key in self._scalars:
            observation[key] = observation[key].reshape(-1)
        return observation

    def _draw(self, size: int) -> np.ndarray:
        from dm_control.mujoco import engine

        if size not in self._cameras:
            self._cameras[size] = engine.Camera(self.env.physics, size, size, camera_id=self.camera)
        flags = {"shadow": False, "reflection": False} if self.fast else {}
        return self._cameras[size].render(render_flag_overrides=flags).copy()  # it draws into one buffer

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.env.task._random = np.random.RandomState(seed)  # as a new environment would get it
        return self._observe(self.env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total = 0.0
        for _ in range(self.repeat):
            timestep = self.env.step(action)
            total += timestep.reward or 0.0
            ended = timestep.last()
            if ended:
                break
        terminated, truncated = ended and timestep.discount == 0, ended and timestep.discount != 0
        return self._observe(timestep.observation), total, terminated, truncated, {}

    def render(self) -> np.ndarray:
        """An image for videos. -> uint8 (RENDER_SIZE, RENDER_SIZE, 3)."""
        if not self._cameras and self.fast:
            self._prepare(RENDER_SIZE)
        return self._draw(RENDER_SIZE)

    def close(self) -> None:
        self._cameras.clear()
        self.env.close()
