"""Where face and hands are in a picture: square boxes around the projected body."""

from __future__ import annotations

import torch
from torch import Tensor

from guava_aug.apps.synthetic.render import project
from guava_aug.body import EhmModel, PosedBody
from guava_aug.body.joints import INDEX
from guava_aug.views.cameras import Cameras

# box -> joints it is around, and its side as a multiple of their larger extent
_HAND_JOINTS = ("wrist", "index3", "middle3", "pinky3", "thumb3")
_HAND_MARGIN = 1.7
_FACE_MARGIN = 1.15
_FACE_MOVES = 1e-3  # metres: a vertex is of the face when some unit expression moves it further
_HEAD_MARGIN = 1.1
_LEAST_SIDE = 8  # pixels
_LEAST_INSIDE = 0.5  # share of the box that must be in the picture

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom not included


def face_vertices(body: EhmModel) -> Tensor:
    """Return [n] int64 body vertices of the face: brows to chin, what expressions move."""
    a = body.assets
    moves = a.head.exprdirs.norm(dim=1).amax(-1) > _FACE_MOVES
    return a.head_to_body[: len(moves)][moves]


def part_boxes(posed: PosedBody, face: Tensor, camera: Cameras) -> dict[str, Box]:
    """Return boxes of `face`, `left_hand`, `right_hand` of one frame (T = 1) that are in the picture.

    face: [n] vertex ids of `face_vertices`.
    """
    groups = {"face": (posed.vertices[:, face], _FACE_MARGIN)}
    for side in ("left", "right"):
        ids = [INDEX[f"{side}_{name}"] for name in _HAND_JOINTS]
        groups[f"{side}_hand"] = (posed.joints[:, ids], _HAND_MARGIN)
    found = {name: _square(project(at, camera, 1)[0, :, :2], margin, camera) for name, (at, margin) in groups.items()}
    return {name: box for name, box in found.items() if box is not None}


def part_regions(posed: PosedBody, body: EhmModel, camera: Cameras) -> dict[str, Tensor]:
    """Return where head and hands of one frame (T = 1) are in the picture, [H, W] bool on the CPU.

    `head`: a disc around the head with its hair-line and neck. `left hand`, `right hand`: squares as of `part_boxes`.
    A part of which less than half is in the picture is left out.
    """
    y, x = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    at = project(posed.vertices[:, body.assets.head_to_body], camera, 1)[0, :, :2].cpu()
    low, high = at.amin(0), at.amax(0)
    (cx, cy), radius = ((low + high) / 2).tolist(), float((high - low).max()) / 2 * _HEAD_MARGIN
    found = {"head": (x - cx) ** 2 + (y - cy) ** 2 < radius**2}
    if int(found["head"].sum()) < _LEAST_INSIDE * torch.pi * radius**2:
        del found["head"]
    for name, (left, top, right, bottom) in part_boxes(posed, face_vertices(body), camera).items():
        if name != "face":
            found[name.replace("_", " ")] = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    return found


def _square(points: Tensor, margin: float, camera: Cameras) -> Box | None:
    low, high = points.amin(0), points.amax(0)
    center = (low + high) / 2
    side = max(_LEAST_SIDE, round(float((high - low).max()) * margin))
    left, top = (int(torch.floor(c - side / 2 + 0.5)) for c in center)
    box = max(left, 0), max(top, 0), min(left + side, camera.width), min(top + side, camera.height)
    width, height = box[2] - box[0], box[3] - box[1]
    if min(width, height) < _LEAST_SIDE or width * height < _LEAST_INSIDE * side * side:
        return None
    return box
