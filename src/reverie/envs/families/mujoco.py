"""MuJoCo tasks of Gymnasium: HalfCheetah, Ant, Hopper, ... pip: mujoco (below version 4, for dm-control beside it).

Protocol: Gymnasium's own rewards, ends and time limits (truncations). With env.pixels=true the image of a camera that
follows the body, if the task has one. A CPU draws without shadows, reflections and multisampling, 75 times faster
(HalfCheetah, 64x64); env.options=look=standard draws as Gymnasium does.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Any

import gymnasium as gym

from ...errors import UserError
from ..family import FreeOptions, Request
from ..plain import from_gymnasium, plain_protocol, wrap_as_requested
from ..rendering import DEBIAN as DEBIAN_OF_RENDERING
from ..rendering import choose_renderer, on_software

FOLLOWED = ("ant", "halfcheetah", "hopper", "humanoid", "humanoidstandup", "swimmer", "walker2d")
PREFIXES = (*FOLLOWED, "inverteddoublependulum", "invertedpendulum", "pusher", "reacher")
MODULES = ("mujoco",)
INSTALL = "pip install 'mujoco>=3.17,<4'"
DEBIAN = DEBIAN_OF_RENDERING
EXAMPLE = "HalfCheetah-v5"
NOTE = "joint angles and velocities; pixels with env.pixels=true"
REPEAT = 1
Options = FreeOptions
RENDER_STYLES = ("auto", "fast", "standard")
RENDER_SIZE = 240  # pixels a side of images for videos


class MujocoDrawing(gym.Wrapper):
    """Renders and frees its resources in the environment's own OpenGL context, and renders fast if requested.

    Gymnasium uses whatever context is current. With two environments that may be the other one's, whose images are
    black from then on.
    """

    def __init__(self, env: gym.Env, look: str) -> None:
        super().__init__(env)
        self.look = look
        self._viewer: Any = None

    def render(self) -> Any:
        if self._viewer is None:
            self._viewer = self._make_viewer()
        self._viewer.make_context_current()
        return self.env.render()

    def _make_viewer(self) -> Any:
        import mujoco  # type: ignore[import, unused-ignore]

        fast, task = _fast(self.look), self.unwrapped
        if fast:
            task.model.vis.quality.offsamples = 0  # type: ignore[attr-defined]
        viewer = task.mujoco_renderer._get_viewer("rgb_array")  # type: ignore[attr-defined]
        if fast:
            viewer.scn.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            viewer.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._release = weakref.finalize(self, _free, viewer)
        atexit.register(self._release)  # runs before MuJoCo's own handler, after which nothing can be freed
        return viewer

    def close(self) -> None:
        if self._viewer is not None:
            self._viewer = None
            self._release()
        self.env.close()


def _free(viewer: Any) -> None:
    viewer.make_context_current()
    viewer.con.free()
    viewer.free()


def make(request: Request) -> gym.Env:
    """The task as Gymnasium makes it; with request.pixels its image, drawn directly in the size that the agent sees."""
    if request.pixels:
        choose_renderer()  # before MuJoCo is imported
    else:
        os.environ.setdefault("MUJOCO_GL", "egl")  # the default needs a display as soon as a video is made
    size = (request.image_size or 64) if request.pixels else RENDER_SIZE
    arguments = {"width": size, "height": size} | _camera(request) | _env_options(request)
    look = arguments.pop("look", "auto")
    if look not in RENDER_STYLES:
        raise UserError(
            f"env.options: 'look' must be one of {', '.join(RENDER_STYLES)}, not {look!r}.",
            "Correct it, or leave it out.",
        )
    try:
        env: gym.Env = MujocoDrawing(from_gymnasium(request.env_id, arguments), look)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            raise
        raise UserError(
            f"Gymnasium no longer has '{request.env_id}' ({error}).", f"Choose a newer version, e.g. {EXAMPLE}."
        ) from error
    if request.pixels:  # a camera that follows nothing centers on the first scene, which must not depend on the seed
        env.reset(seed=0)
        env.render()
    return wrap_as_requested(env, request)


def protocol(request: Request) -> str:
    """What scores depend on; with pixels this includes the renderer."""
    if not request.pixels:
        return plain_protocol(request)
    look = "fast" if _fast(_env_options(request).get("look", "auto")) else "standard"
    camera = "following" if _camera(request) else "fixed"
    return f"{plain_protocol(request)}, {camera} camera, {look} look, drawn by {choose_renderer()}"


def _env_options(request: Request) -> dict[str, Any]:
    return dict(request.options.arguments) if request.options else {}


def _camera(request: Request) -> dict[str, Any]:
    """The camera argument for Gymnasium, whose usual camera stays where the body was at first."""
    follows = request.env_id.split("-")[0].lower() in FOLLOWED
    return {"camera_name": "track"} if follows and "camera_id" not in _env_options(request) else {}


def _fast(look: str) -> bool:
    return look == "fast" or (look == "auto" and on_software(choose_renderer()))
