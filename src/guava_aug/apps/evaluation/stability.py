"""Temporal stability of pictures of a moving body: how much the same point of the surface changes between frames.

The motion of the body is known, so is where every point of its surface was in the frame before. The picture of frame t
is brought to frame t + 1 along that flow and compared with the picture there, on the points that both frames show.
The source video, brought along the same flow, has an error too: of the tracked motion, of light, noise and compression.
An avatar that is too smooth has less of it, so the error is no measure of quality by itself: flicker shows as an error
above that of the source.

ColorVideoVDP (Mantiuk et al., "ColorVideoVDP: A visual difference predictor for image, video and display distortions",
2024; the optional package `cvvdp`, MIT) compares whole videos as an eye sees them, flicker with it: 10 JOD is no
visible difference.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.apps.evaluation.mesh import plain_surface
from guava_aug.apps.synthetic.raster import rasterize
from guava_aug.apps.synthetic.render import project
from guava_aug.runtime.text import in_short
from guava_aug.views.cameras import Cameras

log = logging.getLogger(__name__)

GET_CVVDP = "needs cvvdp: pip install cvvdp"
_SLACK = 0.01  # metres a point may lie behind the z-buffer and still be seen: own surface, slope
_LEVELS = 255.0
_DISPLAY = "standard_4k"


@dataclass(frozen=True)
class Flow:
    """Where the points of the surface that frame t + 1 shows were in frame t."""

    grid: Tensor  # [H, W, 2] of `torch.nn.functional.grid_sample`, not aligned to corners
    shown: Tensor  # [H, W] bool: both frames show the point

    def to(self, device: torch.device | str) -> Flow:
        """Return the same flow on a device."""
        return Flow(self.grid.to(device), self.shown.to(device))

    def bring(self, picture: Tensor) -> Tensor:
        """Return a picture [C, H, W] of frame t where its points are in frame t + 1; nothing where not shown."""
        return F.grid_sample(picture[None], self.grid[None], mode="bilinear", align_corners=False)[0]


def body_flow(faces: Tensor, vertices: Tensor, cameras: Cameras) -> Flow:
    """Return the flow from the first to the second of two posed bodies.

    Args:
        faces: [F, 3] of the body.
        vertices: [2, P, 3] frame t and t + 1, metres.
        cameras: of both frames.
    """
    surface = plain_surface(faces)
    W, H = cameras.width, cameras.height
    screen = project(vertices, cameras, 1)
    ids, bary = rasterize(surface, screen, W, H)
    depth = torch.full(ids.shape[1:], torch.inf, device=ids.device)
    hit = ids[0] >= 0
    depth[hit] = (screen[0, :, 2][faces[ids[0][hit]]] * bary[0][hit]).sum(-1)
    y, x = torch.nonzero(ids[1] >= 0, as_tuple=True)
    before = (screen[0][faces[ids[1][y, x]]] * bary[1][y, x][..., None]).sum(1)  # [n, 3] where it was, and its depth
    size = before.new_tensor([W, H])
    grid = torch.full((H, W, 2), 2.0, device=before.device)
    grid[y, x] = (before[:, :2] + 0.5) / size * 2 - 1
    at = before[:, :2].round().long()
    inside = ((at >= 0) & (at < size.long())).all(-1)
    at = torch.minimum(at.clamp(min=0), size.long() - 1)
    shown = torch.zeros(H, W, dtype=torch.bool, device=before.device)
    shown[y, x] = inside & (before[:, 2] < depth[at[:, 1], at[:, 0]] + _SLACK)
    return Flow(grid, shown)


def warp_error(before: Tensor, after: Tensor, flow: Flow, where: Tensor) -> float | None:
    """Return how much points change between two pictures [3, H, W]: root of the mean square, in levels of 255.

    None: no point of `where` [H, W] bool is shown by both.
    """
    inside = flow.shown & where
    if not bool(inside.any()):
        return None
    return float((flow.bring(before) - after)[:, inside].square().double().mean().sqrt()) * _LEVELS


@functools.cache
def cvvdp_program() -> Any | None:
    """Return the module of the package cvvdp; None: it is not installed, or does not load."""
    try:
        return importlib.import_module("pycvvdp")
    except ModuleNotFoundError:
        return None
    except Exception as error:  # also what its many packages raise, such as a torchvision of another torch
        log.warning("cvvdp is installed and does not load: %s", in_short(error))
        return None


def cvvdp_jod(pictures: Sequence[Tensor], truth: Sequence[Tensor], fps: float, device: torch.device) -> float | None:
    """Return the quality of a video in JOD, at most 10; None: without the package.

    Args:
        pictures: [3, H, W] of each frame, 0..1.
        truth: likewise.
        fps: frames per second.
        device: where it is computed.
    """
    program = cvvdp_program()
    if program is None:
        return None
    metric = program.cvvdp(display_name=_DISPLAY, device=device, quiet=True)
    video = lambda frames: (torch.stack(list(frames)).clamp(0, 1) * _LEVELS).round().byte().cpu().numpy()
    quality, _ = metric.predict(video(pictures), video(truth), dim_order="FCHW", frames_per_second=float(fps))
    return float(quality)
