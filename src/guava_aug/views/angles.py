"""True viewing angles of a camera, and the camera itself as plain numbers."""

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

    They are the direction of the camera from the point it looks at, along its axis. Azimuth: 0 in front of a person who
    faces the tracked camera (world -z), positive towards the person's left (world +x), -180..180. Elevation: positive
    if the camera is above and looks down, -90..90. World and camera axes are OpenCV's, y down.
    """
    axis = viewmats[..., 2, :3].double()  # the viewing direction in the world
    axis = axis / axis.norm(dim=-1, keepdim=True)
    azimuth = torch.atan2(-axis[..., 0], axis[..., 2])
    elevation = torch.asin(axis[..., 1].clamp(-1, 1))
    return torch.rad2deg(azimuth), torch.rad2deg(elevation)


def moves(cameras: Cameras) -> bool:
    """Return whether the camera changes between frames."""
    return bool((cameras.viewmats != cameras.viewmats[:1]).any())


def camera_facts(cameras: Cameras) -> dict[str, Any]:
    """Return the entries of a sidecar for cameras: azimuth, elevation, K [3, 3], viewmats [4, 4] or [T, 4, 4].

    For moving cameras viewmats are [T, 4, 4] and angles are lists of T. Numbers have as many digits as float32 needs
    for an exact round trip.
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


def _numbers(values: Tensor) -> Any:
    """Return nested lists of the shortest decimals that represent these float32 numbers."""
    array = values.detach().cpu().float().numpy()
    return np.array([float(str(v)) for v in array.ravel()]).reshape(array.shape).tolist()
