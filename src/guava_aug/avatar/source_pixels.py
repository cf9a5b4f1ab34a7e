"""The source frame's own pixels at full resolution, for models with `source_pixels`.

The chart and the refiner's first layers are coarser than the picture, so fine patterns and a face that no training
subject had are lost on the way through the network. Such a model also splats, for every Gaussian, the affine map from
the new view to the source picture that its piece of surface has, and how well the source saw it. The mean of these maps
at a pixel says where to look in the source picture (image-based rendering); a small network decides how much of what is
found there replaces the refined colour. The original has nothing like it.

The mean of the Gaussians' places alone would be off by one to two pixels, as they are neither evenly spread nor equally
large; with the maps, each says where the pixel lies and not where its own centre does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guava_aug.body.surface_normals import vertex_normals
from guava_aug.render.rasterize_grad import rasterize_images
from guava_aug.views.cameras import Lens, camera_center, project_points

# Beside a hand in front of the chest the picture shows hand where the tracked hand is a little off: half-resolution
# pixels, the side of the square in which nothing may be nearer by so many metres
CLEARANCE, CLEARANCE_DEPTH = 13, 0.04
_INPUTS = 8  # of the gate: refined RGB, alpha, RGB found times its weight, weight
_WIDTH = 16
_FIRST_GATE = -2.0  # before training: mostly the refined colour
_SMALL = 1e-4
_NO_AREA = 1e-12  # of a face, squares of -1..1 over the picture
_FLAT = 0.05  # determinant of a face's edges over their squared lengths: seen nearly from the edge
_EDGE = 2  # pixels at the mask's edge that may show background
_GRAZING, _FULL = 0.1, 0.5  # cosines between surface normal and line of sight: nothing below one, all from the other
_STEADY, _BROKEN = 3.0, 6.0  # source pixels from one pixel to the next: one surface, and certainly two


@dataclass(frozen=True)
class SourcePlaces:
    """Where Gaussians lie in source pictures; leading dimensions "..." are those of a batch."""

    xy: Tensor  # [..., N, 2] of their centres, -1..1, x right, y down
    weight: Tensor  # [..., N] 0..1: how well the source saw them
    edges: Tensor  # [..., F, 2, 2] two edges of each face of the body, as columns

    def maps_from(self, centres: Tensor, faces: Tensor, face_of: Tensor) -> Tensor:
        """Return what is splatted for views that see the centres at `centres` [..., N, 2], -1..1: [..., N, 7].

        The affine map of a Gaussian from the view to the source picture, times its weight: where the view's origin
        goes [2], its matrix [2, 2] row by row; and the weight. The first P Gaussians are the body's vertices.

        Args:
            centres: [..., N, 2] image coordinates in the view; more leading dimensions than the places may have.
            faces: [F, 3].
            face_of: [N] the face that each Gaussian follows.
        """
        matrix = self.edges @ _inverse(face_edges(centres, faces))
        each = matrix[..., face_of, :, :]  # [..., N, 2, 2]
        origin = self.xy - (each @ centres[..., None])[..., 0]
        weight = self.weight[..., None].expand_as(origin[..., :1])
        return torch.cat([origin * weight, each.flatten(-2) * weight, weight], -1)


@dataclass(frozen=True)
class SourcePixels:
    """The source picture, and where the N Gaussians of an avatar lie in it."""

    places: SourcePlaces
    face_of: Tensor  # [N] the face that each Gaussian follows
    faces: Tensor  # [F, 3]
    picture: Tensor  # [4, S, S] RGB times alpha, and alpha without the mask's edge, 0..1

    def rows(self, keep: Tensor) -> SourcePixels:
        """Return the places of some Gaussians, with the same picture."""
        places = replace(self.places, xy=self.places.xy[keep], weight=self.places.weight[keep])
        return replace(self, places=places, face_of=self.face_of[keep])

    def maps(self, means: Tensor, viewmats: Tensor, K: Tensor, width: int, height: int) -> Tensor:
        """Return `SourcePlaces.maps_from` [T, N, 7] of Gaussians at means [T, N, 3] in cameras [T, 4, 4], lens K."""
        lens = Lens.of(K.cpu(), width, height)
        return self.places.maps_from(project_points(means, viewmats, lens)[..., :2], self.faces, self.face_of)

    def draw(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, K: Tensor, width: int,
        height: int,
    ) -> Tensor:  # fmt: skip
        """Return `maps` splatted, [T, 7, H, W]; arguments as `render.rasterize.rasterize`."""
        n = len(means)
        image, _, _, _ = rasterize_images(
            means, quats, scales, opacities.expand(n, -1), self.maps(means, viewmats, K, width, height), viewmats,
            K.to(means).expand(n, 3, 3), width, height,
        )  # fmt: skip
        return image


def face_edges(points: Tensor, faces: Tensor) -> Tensor:
    """Return two edges [..., F, 2, 2], as columns, of faces with corners among `points` [..., N, 2]."""
    a, b, c = (points[..., faces[:, k], :] for k in range(3))
    return torch.stack([b - a, c - a], -1)


def faces_of_vertices(faces: Tensor, count: int) -> Tensor:
    """Return [count] the first face at each vertex."""
    first = torch.full((count,), len(faces) - 1, dtype=torch.int64, device=faces.device)
    number = torch.arange(len(faces), device=faces.device).repeat_interleave(3)
    return first.scatter_reduce(0, faces.long().flatten(), number, "amin")


def _inverse(m: Tensor) -> Tensor:
    """Return the inverse of matrices [..., 2, 2]; 0 for faces seen from the edge."""
    (a, b), (c, d) = (row.unbind(-1) for row in m.unbind(-2))
    det = a * d - b * c
    flat = det.abs() <= _FLAT * (a * a + b * b + c * c + d * d) + _NO_AREA
    inverse = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    return torch.where(flat, 0.0, 1 / torch.where(flat, 1.0, det))[..., None, None] * inverse


def prepare_picture(both: Tensor, size: int) -> Tensor:
    """Return `SourcePixels.picture` [B, 4, size, size] of RGB times mask, and mask [B, 4, H, W], 0..1."""
    if both.shape[-2:] != (size, size):
        both = F.interpolate(both, (size, size), mode="bilinear", antialias=True, align_corners=False)
    solid = -F.max_pool2d(-both[:, 3:], 2 * _EDGE + 1, stride=1, padding=_EDGE)
    inside = solid / both[:, 3:].clamp(min=_SMALL)
    return torch.cat([both[:, :3] * inside, solid], 1)


def vertex_cosines(vertices: Tensor, faces: Tensor, viewmats: Tensor) -> Tensor:
    """Return [B, P] cosine between the normal of vertices [B, P, 3] and the line of sight of cameras [B, 4, 4]."""
    toward = F.normalize(camera_center(viewmats)[:, None] - vertices, dim=-1)
    return (vertex_normals(vertices, faces) * toward).sum(-1)


def seen_weight(xy: Tensor, cosines: Tensor, visible: Tensor) -> Tensor:
    """Return how well the source saw Gaussians, 0..1, of image coordinates [..., 2], cosines [...] and visibility."""
    return ((cosines - _GRAZING) / (_FULL - _GRAZING)).clamp(0, 1) * visible * (xy.abs().amax(-1) < 1)


def look_up(places: Tensor, alpha: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
    """Return the source colour [T, 3, H, W] seen at each pixel, and its weight [T, 1, H, W] 0..1.

    Args:
        places: [T, 7, H, W] splatted `SourcePlaces.maps_from`.
        alpha: [T, 1, H, W] 0..1.
        picture: [T, 4, S, S] as `SourcePixels.picture`.
    """
    share = places[:, 6:]
    x, y = (_centres(n, places).view(shape) for n, shape in ((places.shape[3], (1, -1)), (places.shape[2], (-1, 1))))
    at_x = places[:, 0] + places[:, 2] * x + places[:, 3] * y
    at_y = places[:, 1] + places[:, 4] * x + places[:, 5] * y
    xy = torch.stack([at_x, at_y], 1) / share.clamp(min=_SMALL)
    found = F.grid_sample(picture, xy.permute(0, 2, 3, 1), padding_mode="zeros", align_corners=False)
    weight = (share / alpha.clamp(min=_SMALL)).clamp(0, 1) * found[:, 3:] * _one_surface(xy, picture.shape[-1])
    return (found[:, :3] / found[:, 3:].clamp(min=_SMALL)).clamp(0, 1), weight


def _centres(count: int, like: Tensor) -> Tensor:
    """Return [count] coordinates -1..1 of pixel centres."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) * 2 + 1) / count - 1


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
