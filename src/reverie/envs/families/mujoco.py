"""MuJoCo tasks of Gymnasium: HalfCheetah, Ant, Hopper, ... pip: mujoco (below version 4, for dm-control beside it).

Protocol: Gymnasium's own rewards, ends and time limits (truncations). With env.pixels=true the picture of a camera
that follows the body where the task has one. Where a CPU draws, it does so without shadows, reflections and
multisampling, 75 times faster (HalfCheetah, 64x64); env.options=look=standard draws as Gymnasium does.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Any

import gymnasium as gym

from ...errors import UserError
from ..family import FreeOptions, Request
from ..plain import finished, from_gymnasium, plain_protocol
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
LOOKS = ("auto", "fast", "standard")
FILM_SIZE = 240  # pixels a side of pictures for people


class MujocoDrawing(gym.Wrapper):
    """Draws in the environment's own OpenGL context, fast if asked, and gives it back in that context.

    Gymnasium does both in whatever context is current: with two environments maybe the other one's, whose pictures
    are black from then on.
    """

    def __init__(self, env: gym.Env, look: str) -> None:
        super().__init__(env)
        self.look = look
        self._viewer: Any = None

    def render(self) -> Any:
        if self._viewer is None:
            self._viewer = self._prepared()
        self._viewer.make_context_current()
        return self.env.render()

    def _prepared(self) -> Any:
        import mujoco  # type: ignore[import, unused-ignore]

        fast, task = _fast(self.look), self.unwrapped
        if fast:
            task.model.vis.quality.offsamples = 0  # type: ignore[attr-defined]
        viewer = task.mujoco_renderer._get_viewer("rgb_array")  # type: ignore[attr-defined]
        if fast:
            viewer.scn.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            viewer.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._release = weakref.finalize(self, _free, viewer)
        atexit.register(self._release)  # thus before MuJoCo's own, after which nothing can be freed
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
    """The task as Gymnasium makes it; with request.pixels its picture, drawn in the agent's size at once."""
    if request.pixels:
        choose_renderer()  # before MuJoCo is imported
    else:
        os.environ.setdefault("MUJOCO_GL", "egl")  # the default needs a display as soon as a film is asked for
    size = (request.image_size or 64) if request.pixels else FILM_SIZE
    arguments = {"width": size, "height": size} | _camera(request) | _asked(request)
    look = arguments.pop("look", "auto")
    if look not in LOOKS:
        raise UserError(f"env.options: 'look' must be one of {', '.join(LOOKS)}, not {look!r}.")
    try:
        env: gym.Env = MujocoDrawing(from_gymnasium(request.env_id, arguments), look)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            raise
        raise UserError(f"Gymnasium has no '{request.env_id}' any more ({error}).", f"E.g. {EXAMPLE}.") from error
    if request.pixels:  # a camera that follows nothing looks at the middle of what it sees first
        env.reset(seed=0)
        env.render()
    return finished(env, request)


def protocol(request: Request) -> str:
    """What scores depend on; with pixels also who draws them."""
    if not request.pixels:
        return plain_protocol(request)
    look = "fast" if _fast(_asked(request).get("look", "auto")) else "standard"
    camera = "following" if _camera(request) else "fixed"
    return f"{plain_protocol(request)}, {camera} camera, {look} look, drawn by {choose_renderer()}"


def _asked(request: Request) -> dict[str, Any]:
    return dict(request.options.arguments) if request.options else {}


def _camera(request: Request) -> dict[str, Any]:
    """The argument for Gymnasium: its usual camera stays where the body was at first."""
    follows = request.env_id.split("-")[0].lower() in FOLLOWED
    return {"camera_name": "track"} if follows and "camera_id" not in _asked(request) else {}


def _fast(look: str) -> bool:
    return look == "fast" or (look == "auto" and on_software(choose_renderer()))
