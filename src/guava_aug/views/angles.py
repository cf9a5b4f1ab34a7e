"""From where a camera looks, in true angles, and the camera itself as plain numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from guava_aug.views.cameras import Cameras

CONVENTION = (
    "viewmats: world to camera, column vectors, metres; OpenCV axes: x right, y down, z forward. K: pixels, integer "
    "coordinates are pixel centres. azimuth, elevation: degrees of the line from camera to look-at point; azimuth 0 "
    "is in front of the person, positive towards the person's left; elevation positive: the camera is above"
)
_DECIMALS = 4  # of an angle in degrees that is written down


def viewing_angles(viewmats: Tensor) -> tuple[Tensor, Tensor]:
    """Return azimuth and elevation [...] in degrees, float64, of cameras [..., 4, 4] (world to camera).

    They say where the camera is as seen from what it looks at, along its axis. Azimuth: 0 in front of a person who
    faces the tracked camera (world -z), positive towards the person's left (world +x), -180..180. Elevation: positive
    where the camera is above and looks down, -90..90. World and camera axes are OpenCV's, y down.
    """
    axis = viewmats[..., 2, :3].double()  # the viewing direction in the world
    axis = axis / axis.norm(dim=-1, keepdim=True)
    azimuth = torch.atan2(-axis[..., 0], axis[..., 2])
    elevation = torch.asin(axis[..., 1].clamp(-1, 1))
    return torch.rad2deg(azimuth), torch.rad2deg(elevation)


def moves(cameras: Cameras) -> bool:
    """Return whether the camera is not the same in all frames."""
    return bool((cameras.viewmats != cameras.viewmats[:1]).any())


def camera_facts(cameras: Cameras) -> dict[str, Any]:
    """Return what a sidecar says of cameras: azimuth, elevation, K [3, 3], viewmats [4, 4] or, if they move, [T, 4, 4].

    Angles of moving cameras are lists of T. Numbers have as many digits as float32 needs to be read again exactly.
    """
    azimuth, elevation = (torch.round(a, decimals=_DECIMALS) + 0.0 for a in viewing_angles(cameras.viewmats))
    one = not moves(cameras)
    return {
        "azimuth": float(azimuth[0]) if one else azimuth.tolist(),
        "elevation": float(elevation[0]) if one else elevation.tolist(),
        "K": _numbers(cameras.K),
        "viewmats": _numbers(cameras.viewmats[0] if one else cameras.viewmats),
        "convention": CONVENTION,
    }


def compact_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return `camera_facts` as short as a journal wants them; `expanded_facts` is the inverse.

    azimuth, elevation, K as [fx, fy, cx, cy], viewmat as its first three rows; or {"moving": True}.
    """
    if isinstance(facts["azimuth"], list):
        return {"moving": True}
    (fx, _, cx), (_, fy, cy), _ = facts["K"]
    rows = [value for row in facts["viewmats"][:3] for value in row]
    return {"azimuth": facts["azimuth"], "elevation": facts["elevation"], "K": [fx, fy, cx, cy], "viewmat": rows}


def expanded_facts(compact: dict[str, Any]) -> dict[str, Any]:
    """Return azimuth, elevation, K (9 numbers) and viewmat (16 numbers), row by row; None for each of a moving one."""
    try:
        fx, fy, cx, cy = (float(value) for value in compact["K"])
        rows = [float(value) for value in compact["viewmat"]]
        angles = {key: float(compact[key]) for key in ("azimuth", "elevation")}
    except (KeyError, TypeError, ValueError):  # it moves, or the line is damaged
        return dict.fromkeys(("azimuth", "elevation", "K", "viewmat"))
    K = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    return {**angles, "K": K, "viewmat": [*rows, 0.0, 0.0, 0.0, 1.0]}


def _numbers(values: Tensor) -> Any:
    """Nested lists of the shortest decimals that are these float32 numbers."""
    array = values.detach().cpu().float().numpy()
    return np.array([float(str(v)) for v in array.ravel()]).reshape(array.shape).tolist()
