"""The baseline of a projected-texture mesh: the source picture stuck to the body, seen from elsewhere.

No network: every point of the posed body looks up its own place in the source picture. Points the source camera does
not see take the colour of the mirrored vertex if that one is seen, and else a smooth continuation of their
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.apps.synthetic.raster import Surface, rasterize
from guava_aug.apps.synthetic.render import project
from guava_aug.body import EhmModel
from guava_aug.body.surface_normals import vertex_normals
from guava_aug.views.cameras import Cameras

SUPERSAMPLE = 2
_SLACK = 0.008  # metres a point may lie behind the z-buffer and still be seen: own surface, slope
_GRAZING = (0.05, 0.15)  # cosines between which trust in the source picture rises from 0 to 1
_SOFT_MASK = (0.7, 0.95)  # the same for the mask: at its edge the picture shows some background
_SMOOTHING = 200  # rounds of averaging over neighbours
_BLOCK = 1024  # vertices whose distances to all others are held at once


@dataclass(frozen=True)
class ProjectedMesh:
    """A body with the source picture on it."""

    surface: Surface
    source: Tensor  # [P, 3] vertices in the source frame
    normals: Tensor  # [P, 3]
    camera: Cameras  # of the source, T = 1
    rgba: Tensor  # [1, 4, H, W] source picture 0..1 and mask
    depth: Tensor  # [S, S] metres, of the supersampled source view; infinite where there is no body
    fill: Tensor  # [P, 3] colours for what the source does not show

    @staticmethod
    def build(body: EhmModel, vertices: Tensor, camera: Cameras, rgb: Tensor, mask: Tensor) -> ProjectedMesh:
        """Return the textured mesh of one source frame.

        vertices: [1, P, 3] posed as in the source. rgb: [3, H, W] 0..1, the picture with its background.
        mask: [1, H, W] 0..1 the person.
        """
        surface = plain_surface(body.assets.faces)
        depth = _nearer_neighbours(_depth(surface, vertices, camera))
        normals = vertex_normals(vertices, surface.faces)[0]
        rgba = torch.cat([rgb, mask])[None]
        bare = ProjectedMesh(surface, vertices[0], normals, camera, rgba, depth, torch.zeros_like(vertices[0]))
        color, trust = bare._look_up(vertices[0], normals)
        fill = _filled(body.assets.v_canonical, surface.faces, color, trust > 0.5)
        return ProjectedMesh(surface, vertices[0], normals, camera, rgba, depth, fill)

    def render(self, vertices: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
        """Return colour times alpha [1, 3, H, W] and alpha [1, 1, H, W] of the body posed anew (vertices [1, P, 3])."""
        ids, bary = rasterize(
            self.surface, project(vertices, camera, SUPERSAMPLE), camera.width * SUPERSAMPLE,
            camera.height * SUPERSAMPLE,
        )  # fmt: skip
        t, y, x = torch.nonzero(ids >= 0, as_tuple=True)
        corner, w = self.surface.faces[ids[t, y, x]], bary[t, y, x][..., None]
        mix = lambda values: (values[corner] * w).sum(1)
        color, trust = self._look_up(mix(self.source), F.normalize(mix(self.normals), dim=-1))
        picture = torch.zeros(*ids.shape, 4, device=ids.device)
        picture[t, y, x, :3] = torch.lerp(mix(self.fill), color, trust[:, None])
        picture[t, y, x, 3] = 1
        small = F.avg_pool2d(picture.permute(0, 3, 1, 2), SUPERSAMPLE)
        return small[:, :3], small[:, 3:]

    def _look_up(self, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Return colours [n, 3] of body points in the source picture, and how far to trust them [n] 0..1."""
        at = project(points[None], self.camera, 1)[0]
        size = at.new_tensor([self.camera.width, self.camera.height])
        grid = ((at[:, :2] + 0.5) / size * 2 - 1)[None, None]
        seen = F.grid_sample(self.rgba, grid, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0]
        side = torch.tensor(self.depth.shape, device=at.device).flip(0)
        fine = ((at[:, :2] + 0.5) * SUPERSAMPLE - 0.5).round().long()
        inside = ((fine >= 0) & (fine < side)).all(-1)
        fine = torch.minimum(fine.clamp(min=0), side - 1)
        near = at[:, 2] < self.depth[fine[:, 1], fine[:, 0]] + _SLACK
        facing = -(normals @ self.camera.viewmats[0, 2, :3])
        trust = (inside & near).float() * _ramp(facing, _GRAZING) * _ramp(seen[3], _SOFT_MASK)
        return seen[:3].T, trust


def plain_surface(faces: Tensor) -> Surface:
    """Return triangles without texture or holes, for z-buffers."""
    count, device = len(faces), faces.device
    return Surface(
        faces, torch.zeros(count, 3, 2, device=device), torch.zeros(count, dtype=torch.bool, device=device),
        torch.zeros(count, device=device), torch.zeros(1, 1, dtype=torch.uint8, device=device),
    )  # fmt: skip


def _ramp(x: Tensor, between: tuple[float, float]) -> Tensor:
    low, high = between
    return ((x - low) / (high - low)).clamp(0, 1)


def _depth(surface: Surface, vertices: Tensor, camera: Cameras) -> Tensor:
    screen = project(vertices, camera, SUPERSAMPLE)
    ids, bary = rasterize(surface, screen, camera.width * SUPERSAMPLE, camera.height * SUPERSAMPLE)
    depth = torch.full(ids.shape[1:], torch.inf, device=ids.device)
    hit = ids[0] >= 0
    depth[hit] = (screen[0, :, 2][surface.faces[ids[0][hit]]] * bary[0][hit]).sum(-1)
    return depth


def _nearer_neighbours(depth: Tensor) -> Tensor:
    """Return the least depth among a pixel and its eight neighbours: pixels beside occluding edges are not trusted."""
    return -F.max_pool2d(-depth[None, None], 3, 1, 1)[0, 0]


def _filled(template: Tensor, faces: Tensor, color: Tensor, known: Tensor) -> Tensor:
    """Return [P, 3] colours of all vertices; the known ones keep theirs.

    template: [P, 3] in the rest pose, symmetric in x.
    """
    if not bool(known.any()):
        return color
    mirrored = nearest(template * template.new_tensor([-1.0, 1.0, 1.0]), template)
    by_mirror = ~known & known[mirrored]
    color = torch.where(by_mirror[:, None], color[mirrored], color)
    known = known | by_mirror
    donors = torch.nonzero(known)[:, 0]
    color = torch.where(known[:, None], color, color[donors[nearest(template, template[donors])]])
    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ends = torch.cat([ends, ends.flip(1)])
    count = color.new_zeros(len(color)).index_add_(0, ends[:, 0], color.new_ones(len(ends)))
    free = ~known & (count > 0)
    for _ in range(_SMOOTHING):
        around = torch.zeros_like(color).index_add_(0, ends[:, 0], color[ends[:, 1]])
        color = torch.where(free[:, None], around / count.clamp(min=1)[:, None], color)
    return color


def nearest(points: Tensor, among: Tensor) -> Tensor:
    """Return [n] int64 index of the nearest of `among` [m, 3] to each of `points` [n, 3]."""
    return torch.cat([torch.cdist(block, among).argmin(1) for block in points.split(_BLOCK)])
