"""The source frame's own pixels at full resolution, for models with `source_pixels`.

The chart and the refiner's first layers are coarser than the picture, so fine patterns and a face that no training
subject had are lost on the way through the network. Such a model also splats, for every Gaussian, where its centre lies
in the source picture and how well that place was seen. The mean of these places at a pixel of a new view says where to
look in the source picture (image-based rendering); a small network decides how much of what is found there replaces the
refined colour. The original has nothing like it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guava_aug.body.surface_normals import area_normals
from guava_aug.views.cameras import camera_center

_INPUTS = 8  # of the gate: refined RGB, alpha, RGB found times its weight, weight
_WIDTH = 16
_FIRST_GATE = -2.0  # before training: mostly the refined colour
_SMALL = 1e-4
_EDGE = 2  # pixels at the mask's edge that may show background
_GRAZING, _FULL = 0.1, 0.5  # cosines between surface normal and line of sight: nothing below one, all from the other
_STEADY, _BROKEN = 3.0, 6.0  # source pixels from one pixel to the next: one surface, and certainly two


@dataclass(frozen=True)
class SourcePixels:
    """The source picture, and where each Gaussian's centre lies in it."""

    places: Tensor  # [N, 3] weight 0..1 times x, weight times y (-1..1, x right, y down), weight
    picture: Tensor  # [4, S, S] RGB times alpha, and alpha without the mask's edge, 0..1

    def rows(self, keep: Tensor) -> SourcePixels:
        """Return the places of some Gaussians, with the same picture."""
        return SourcePixels(self.places[keep], self.picture)


def prepare_picture(both: Tensor, size: int) -> Tensor:
    """Return `SourcePixels.picture` [B, 4, size, size] of RGB times mask, and mask [B, 4, H, W], 0..1."""
    if both.shape[-2:] != (size, size):
        both = F.interpolate(both, (size, size), mode="bilinear", antialias=True, align_corners=False)
    solid = -F.max_pool2d(-both[:, 3:], 2 * _EDGE + 1, stride=1, padding=_EDGE)
    inside = solid / both[:, 3:].clamp(min=_SMALL)
    return torch.cat([both[:, :3] * inside, solid], 1)


def face_cosines(vertices: Tensor, faces: Tensor, viewmats: Tensor) -> Tensor:
    """Return [B, P] cosine between the normal of vertices [B, P, 3] and the line of sight of cameras [B, 4, 4]."""
    toward = F.normalize(camera_center(viewmats)[:, None] - vertices, dim=-1)
    return (F.normalize(area_normals(vertices, faces), dim=-1) * toward).sum(-1)


def source_places(xy: Tensor, cosines: Tensor, visible: Tensor) -> Tensor:
    """Return `SourcePixels.places` [..., 3] of image coordinates [..., 2] (-1..1), cosines [...] and visibility."""
    weight = ((cosines - _GRAZING) / (_FULL - _GRAZING)).clamp(0, 1) * visible * (xy.abs().amax(-1) < 1)
    return torch.cat([xy.clamp(-1, 1) * weight[..., None], weight[..., None]], -1)


def look_up(places: Tensor, alpha: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Return the source colour [T, 3, H, W] seen at each pixel, and its weight [T, 1, H, W] 0..1.

    Args:
        places: [T, 3, H, W] splatted `SourcePixels.places`.
        alpha: [T, 1, H, W] 0..1.
        picture: [T, 4, S, S] as `SourcePixels.picture`.
    """
    share = places[:, 2:]
    xy = places[:, :2] / share.clamp(min=_SMALL)
    # the rasteriser's coordinate in a pixel is that of its centre
    found = F.grid_sample(picture, xy.permute(0, 2, 3, 1), padding_mode="zeros", align_corners=False)
    weight = (share / alpha.clamp(min=_SMALL)).clamp(0, 1) * found[:, 3:] * _one_surface(xy, picture.shape[-1])
    return (found[:, :3] / found[:, 3:].clamp(min=_SMALL)).clamp(0, 1), weight


def _one_surface(xy: Tensor, size: int) -> Tensor:
    """Return [T, 1, H, W] 0..1: low where neighbouring pixels lead to places far apart, as at the edge of a hand."""
    across = (xy[..., 1:] - xy[..., :-1]).abs().amax(1, keepdim=True) * (size / 2)
    down = (xy[..., 1:, :] - xy[..., :-1, :]).abs().amax(1, keepdim=True) * (size / 2)
    most = torch.maximum(
        torch.maximum(F.pad(across, (1, 0)), F.pad(across, (0, 1))),
        torch.maximum(F.pad(down, (0, 0, 1, 0)), F.pad(down, (0, 0, 0, 1))),
    )
    return ((_BROKEN - most) / (_BROKEN - _STEADY)).clamp(0, 1)


class SourceBlend(nn.Module):
    """How much of the source's own colour each pixel takes: a few convolutions at half resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(_INPUTS, _WIDTH, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(_WIDTH, 1, 3, padding=1),
        )  # fmt: skip
        last = self.gate[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.constant_(last.bias, _FIRST_GATE)

    def forward(self, rgb: Tensor, alpha: Tensor, places: Tensor, picture: Tensor) -> Tensor:
        """Return refined colours [T, 3, H, W] 0..1 with the source's own; other arguments as `look_up`."""
        with torch.autocast(rgb.device.type, enabled=False):  # places need more than half precision
            found, weight = look_up(places.float(), alpha.float(), picture.float())
            seen = torch.cat([rgb.float(), alpha.float(), found * weight, weight], 1)
            seen = F.avg_pool2d(seen, 2)
        gate = F.interpolate(self.gate(seen).float(), scale_factor=2, mode="bilinear", align_corners=False)
        return torch.lerp(rgb.float(), found, torch.sigmoid(gate) * weight).to(rgb.dtype)
