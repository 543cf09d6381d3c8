"""MuJoCo with a way to draw without a screen: import ``mujoco`` from here.

MuJoCo decides at its import how it draws, so the choice has to be made before, in one place.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from typing import Any

from fog_world_model.errors import FogError

ADVICE = (
    "MuJoCo needs a GL library to draw the camera's picture without a screen: "
    "apt install libegl1 libgl1-mesa-dri (MUJOCO_GL=egl), or "
    "apt install libosmesa6 (MUJOCO_GL=osmesa)"
)


def _choose_backend() -> None:
    """EGL unless the user chose, or unless only the pure software library is installed."""
    if "MUJOCO_GL" in os.environ or not sys.platform.startswith("linux"):
        return
    only_osmesa = not ctypes.util.find_library("EGL") and ctypes.util.find_library("OSMesa")
    os.environ["MUJOCO_GL"] = "osmesa" if only_osmesa else "egl"


_choose_backend()
# Mesa's software renderer starts a thread per core; for pictures this small they only get in the
# way of each other and of other processes.
os.environ.setdefault("LP_NUM_THREADS", "0")
try:
    import mujoco
except Exception as error:  # loading the GL library fails in as many ways as there are libraries
    raise FogError(f"{ADVICE}. MUJOCO_GL={os.environ.get('MUJOCO_GL')} gave: {error}") from error

__all__ = ["mujoco", "open_renderer"]


def open_renderer(model: mujoco.MjModel, height: int, width: int) -> Any:
    """Open an off-screen renderer without shadows and reflections.

    It belongs to the thread that opens it.

    Args:
        model: What will be drawn.
        height: Rows of the picture.
        width: Columns of the picture.

    Raises:
        FogError: No GL library, or none that works here; the message says what to install.
    """
    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:  # see above
        raise FogError(
            f"{ADVICE}. MUJOCO_GL={os.environ.get('MUJOCO_GL')} gave: {error}"
        ) from error
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = 0
    return renderer
