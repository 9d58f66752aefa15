"""Drawing without a display: which of MuJoCo's OpenGL backends works here is found by trying, and said.

The trial runs in a process of its own: after a failed one in this process no other could be tried.
"""

from __future__ import annotations

import os
import subprocess
import sys

from ..errors import UserError

DEBIAN = "libegl1 libegl-mesa0 libgl1-mesa-dri libgl1"
OTHER_DEBIAN = "libosmesa6"
BACKENDS = ("egl", "osmesa")
_CHOSEN = "REVERIE_MUJOCO_GL"  # worker processes inherit it and need not try again

#: Draws one picture and prints who drew it, e.g. "llvmpipe (LLVM 15.0.6, 256 bits)" where there is no GPU.
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
    """Set MUJOCO_GL to a backend that works, before MuJoCo is imported. -> "egl (llvmpipe ...)" for the header.

    If MUJOCO_GL is set already, only that is tried. Raises UserError with the packages to install if nothing works.
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
        f"apt-get install -y --no-install-recommends {DEBIAN} (or {OTHER_DEBIAN}); or env.pixels=false.",
    )


def try_backend(backend: str, *, seconds: float = 60.0) -> tuple[str, str]:
    """Draw a picture with it in another process. -> (name of the renderer, ""), or ("", what went wrong)."""
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
    """Does the CPU draw? renderer: what `choose_renderer` said."""
    return any(word in renderer.lower() for word in ("llvmpipe", "softpipe", "swrast", "osmesa"))
