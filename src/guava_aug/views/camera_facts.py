"""The short form of a camera for journals and tables; without torch.

The long form is `angles.camera_facts`.
"""

from __future__ import annotations

from typing import Any


def compact_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return `camera_facts` in the short form of a journal; `expanded_facts` is the inverse.

    azimuth, elevation, K as [fx, fy, cx, cy], viewmat as its first three rows; or {"moving": True}.
    """
    if isinstance(facts["azimuth"], list):
        return {"moving": True}
    (fx, _, cx), (_, fy, cy), _ = facts["K"]
    rows = [value for row in facts["viewmats"][:3] for value in row]
    return {"azimuth": facts["azimuth"], "elevation": facts["elevation"], "K": [fx, fy, cx, cy], "viewmat": rows}


def expanded_facts(compact: dict[str, Any]) -> dict[str, Any]:
    """Return azimuth, elevation, K (9 numbers) and viewmat (16 numbers), row by row.

    All are None for a moving camera.
    """
    try:
        fx, fy, cx, cy = (float(value) for value in compact["K"])
        rows = [float(value) for value in compact["viewmat"]]
        angles = {key: float(compact[key]) for key in ("azimuth", "elevation")}
    except (KeyError, TypeError, ValueError):  # it moves, or the line is damaged
        return dict.fromkeys(("azimuth", "elevation", "K", "viewmat"))
    K = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    return {**angles, "K": K, "viewmat": [*rows, 0.0, 0.0, 0.0, 1.0]}
