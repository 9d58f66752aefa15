"""Rendering without a display: finds an OpenGL backend of MuJoCo that works on this machine.

Each backend is tried in a process of its own, because after a failure in this process no other could be loaded.
"""

from __future__ import annotations

import os
import subprocess
import sys

from ..errors import UserError

DEBIAN = "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1"
OTHER_DEBIAN = "libosmesa6"
BACKENDS = ("egl", "osmesa")
_CHOSEN = "REVERIE_MUJOCO_GL"  # worker processes inherit the choice and need not try again

#: Draws one image and prints the renderer, e.g. "llvmpipe (LLVM 15.0.6, 256 bits)" without a GPU.
TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light/><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
context = mujoco.GLContext(8, 8)
context.make_current()
scene, seen = mujoco.MjvScene(model, 10), mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
from OpenGL import GL
print("renderer:", GL.glGetString(GL.GL_RENDERER).decode())
"""


def choose_renderer() -> str:
    """Set MUJOCO_GL to a backend that works; call it before MuJoCo is imported. -> "egl (llvmpipe ...)" for headers.

    If MUJOCO_GL is set already, only that backend is tried. Raises UserError, with the packages to install, if none
    works.
    """
    if os.environ.get(_CHOSEN):
        return os.environ[_CHOSEN]
    failed: list[str] = []
    for backend in (os.environ["MUJOCO_GL"],) if os.environ.get("MUJOCO_GL") else BACKENDS:
        renderer, fault = try_backend(backend)
        if renderer:
            os.environ["MUJOCO_GL"] = backend
            os.environ[_CHOSEN] = f"{backend} ({renderer})" + (f"; {'; '.join(failed)}" if failed else "")
            return os.environ[_CHOSEN]
        failed.append(f"{backend} failed: {fault}")
    raise UserError(
        f"MuJoCo cannot draw here: {'; '.join(failed)}.",
        f"Run apt-get install -y --no-install-recommends {DEBIAN} (or {OTHER_DEBIAN}), or set env.pixels=false.",
    )


def try_backend(backend: str, *, seconds: float = 60.0) -> tuple[str, str]:
    """Draw an image with `backend` in another process. -> (name of the renderer, "") or ("", what went wrong)."""
    environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        done = subprocess.run(
            [sys.executable, "-c", TRIAL], env=environment, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer in {seconds:g} s"
    for line in done.stdout.splitlines():
        if line.startswith("renderer:"):
            return line.removeprefix("renderer:").strip(), ""
    lines = done.stderr.strip().splitlines()
    return "", lines[-1][:150] if lines else f"exit code {done.returncode}"


def on_software(renderer: str) -> bool:
    """Whether the CPU draws. renderer: the result of `choose_renderer`."""
    return any(word in renderer.lower() for word in ("llvmpipe", "softpipe", "swrast", "osmesa"))
