"""Pictures of subjects: premultiplied colour and soft mask of posed bodies through any camera.

Plain torch on any device (the z-buffer alone has a numba twin for the CPU, see `raster`). Shading happens in
linear light: a sky-and-floor ambient darkened by baked occlusion, wrapped directional lights, a faint gloss.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from guava_aug.apps.synthetic.raster import Surface, rasterize
from guava_aug.body.ehm import EhmModel, PosedBody
from guava_aug.body.params import Identity, Motion
from guava_aug.body.surface_normals import area_normals
from guava_aug.views.cameras import Cameras, camera_center

SKIN, CLOTH, HAIR, EYE, MOUTH = range(5)
# per material: how far light wraps round (r, g, b), and strength and sharpness of the gloss
_WRAP = ((0.42, 0.26, 0.20), (0.20, 0.20, 0.20), (0.35, 0.35, 0.35), (0.3, 0.3, 0.3), (0.4, 0.3, 0.3))
_GLOSS = (0.045, 0.012, 0.09, 0.5, 0.10)
_SHARPNESS = (18.0, 8.0, 22.0, 160.0, 40.0)


@dataclass(frozen=True)
class Light:
    """A light set-up. Directions point TO the light in the y-up frame: x to the person's left, z to the front."""

    directions: Tensor  # [L, 3] unit
    colors: Tensor  # [L, 3] linear
    sky: Tensor  # [3] ambient from above
    floor: Tensor  # [3] ambient from below

    def to(self, device: torch.device | str) -> Light:
        """Return a copy with all tensors on `device`."""
        return Light(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class Skin:
    """The drawn mesh of one person: how it hangs on the body model, and what it looks like."""

    surface: Surface
    ids: Tensor  # [n, 3] int64 model vertices
    weights: Tensor  # [n, 3]
    offsets: Tensor  # [n, 3] metres in the T pose
    material: Tensor  # [F] int64
    occlusion: Tensor  # [n] 1 open, 0 buried
    atlas: Tensor  # [A, A, 3] uint8 sRGB

    def to(self, device: torch.device | str) -> Skin:
        """Return a copy with all tensors on `device`."""
        return Skin(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def vertices(self, posed: PosedBody) -> Tensor:
        """Return [T, n, 3] in the tracked world."""
        at = posed.vertices[:, self.ids]  # [T, n, 3 corners, 3]
        turn = (posed.vertex_transforms[:, self.ids, :3, :3] * self.weights[..., None, None]).sum(2)
        moved = (turn * self.offsets[:, None, :]).sum(-1) / self.weights.sum(-1, keepdim=True)
        return (at * self.weights[..., None]).sum(2) + moved


def project(vertices: Tensor, cameras: Cameras, supersample: int) -> Tensor:
    """Return [T, n, 3] pixel x, y (integer coordinates are centres of the supersampled picture) and depth in metres."""
    R, t = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3]
    p = vertices @ R.transpose(1, 2) + t[:, None]
    xy = p[..., :2] / p[..., 2:] * torch.stack([cameras.K[0, 0], cameras.K[1, 1]]) + cameras.K[:2, 2]
    return torch.cat([(xy + 0.5) * supersample - 0.5, p[..., 2:]], -1)


def render(model: EhmModel, identity: Identity, motion: Motion, skin: Skin, light: Light, cameras: Cameras,
           supersample: int = 2) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return colour times alpha [T, 3, H, W] (sRGB 0..1, on black) and alpha [T, 1, H, W]."""
    vertices = skin.vertices(model(identity, motion))
    return render_vertices(vertices, skin, light, cameras, supersample)


def render_vertices(
    vertices: Tensor, skin: Skin, light: Light, cameras: Cameras, supersample: int = 2, *, near: bool = False
) -> tuple[Tensor, Tensor]:
    """Return what `render` does, from posed mesh vertices [T, n, 3] of the tracked world.

    near: the eye is where the camera is, and not at infinity along its axis, as is exact enough for the format's lens.
    """
    screen = project(vertices, cameras, supersample)
    ids, bary = rasterize(skin.surface, screen, cameras.width * supersample, cameras.height * supersample)
    normals = vertex_normals(vertices, skin.surface.faces)
    t, y, x = torch.nonzero(ids >= 0, as_tuple=True)
    face, w = ids[t, y, x], bary[t, y, x]
    corner = skin.surface.faces[face]
    normal = (normals[t[:, None], corner] * w[..., None]).sum(1)
    occlusion = (skin.occlusion[corner] * w).sum(1)
    to_eye = -cameras.viewmats[t, 2, :3]
    if near:
        point = (vertices[t[:, None], corner] * w[..., None]).sum(1)
        to_eye = torch.nn.functional.normalize(camera_center(cameras.viewmats)[t] - point, dim=1)
    # hair cards and hems are seen from behind too
    normal = torch.where((normal * to_eye).sum(1, keepdim=True) < 0, -normal, normal)
    uv = (skin.surface.corners[face] * w[..., None]).sum(1)
    color = shade(sample(skin.atlas, uv), normal, to_eye, occlusion, skin.material[face], light)
    picture = torch.zeros(*ids.shape, 4, device=color.device)
    picture[t, y, x, :3] = color
    picture[t, y, x, 3] = 1
    small = torch.nn.functional.avg_pool2d(picture.permute(0, 3, 1, 2), supersample)
    return small[:, :3], small[:, 3:]


def shade(albedo: Tensor, normal: Tensor, to_eye: Tensor, occlusion: Tensor, material: Tensor, light: Light) -> Tensor:
    """Return [n, 3] sRGB of lit points: albedo sRGB 0..1, normals and directions in the tracked world."""
    flip = albedo.new_tensor([1.0, -1.0, -1.0])  # tracked world -> y up
    normal = torch.nn.functional.normalize(normal * flip, dim=-1)
    to_eye = to_eye * flip
    linear = albedo**2.2
    wrap = albedo.new_tensor(_WRAP)[material]
    up = normal[:, 1:2] * 0.5 + 0.5
    total = (light.floor + (light.sky - light.floor) * up) * occlusion[:, None]
    gloss = torch.zeros_like(total)
    for direction, color in zip(light.directions, light.colors, strict=True):
        cosine = (normal @ direction)[:, None]
        total = total + color * ((cosine + wrap) / (1 + wrap)).clamp(min=0) * (0.45 + 0.55 * occlusion[:, None])
        half = torch.nn.functional.normalize(direction + to_eye, dim=-1)
        shine = (normal * half).sum(-1, keepdim=True).clamp(min=0) ** albedo.new_tensor(_SHARPNESS)[material][:, None]
        gloss = gloss + color * shine * (cosine > 0)
    gloss = gloss * (albedo.new_tensor(_GLOSS)[material] * occlusion)[:, None]
    out = linear * total + gloss
    return (out / (1 + (out - 0.8).clamp(min=0))).clamp(0, 1) ** (1 / 2.2)  # soft shoulder above 0.8


def sample(atlas: Tensor, uv: Tensor) -> Tensor:
    """Return [n, 3] bilinear colours 0..1 of an atlas [A, A, 3] uint8 at uv [n, 2] (v down)."""
    A = atlas.shape[0]
    p = (uv * A - 0.5).clamp(0, A - 1.001)
    i = p.long()
    f = p - i
    x, y = i.unbind(-1)
    fx, fy = f[:, :1], f[:, 1:]
    texel = lambda dy, dx: atlas[y + dy, x + dx].float()
    top = texel(0, 0) * (1 - fx) + texel(0, 1) * fx
    bottom = texel(1, 0) * (1 - fx) + texel(1, 1) * fx
    return (top * (1 - fy) + bottom * fy) / 255


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return [T, n, 3] unit normals, area weighted; zero where a vertex has no face."""
    return torch.nn.functional.normalize(area_normals(vertices, faces), dim=-1)


def occlusion(vertices: Tensor, surface: Surface, directions: int = 48, size: int = 320) -> Tensor:
    """Return [n] ambient visibility of each vertex: the share of directions from which it is seen, cosine weighted.

    vertices [n, 3] of one body. Directions are a Fibonacci sphere, each one orthographic z-buffer.
    """
    k = torch.arange(directions, dtype=torch.float32, device=vertices.device)
    z = 1 - 2 * (k + 0.5) / directions
    angle = k * 2.399963
    r = (1 - z * z).sqrt()
    d = torch.stack([r * angle.cos(), r * angle.sin(), z], -1)
    normal = vertex_normals(vertices[None], surface.faces)[0]
    center = (vertices.amax(0) + vertices.amin(0)) / 2
    reach = (vertices - center).norm(dim=-1).max() * 1.02
    seen, possible = (
        torch.zeros(len(vertices), device=vertices.device),
        torch.zeros(len(vertices), device=vertices.device),
    )
    for v in d:
        helper = vertices.new_tensor([0.0, 1.0, 0.0]) if abs(v[1]) < 0.9 else vertices.new_tensor([1.0, 0.0, 0.0])
        right = torch.nn.functional.normalize(torch.linalg.cross(helper, v), dim=0)
        frame = torch.stack([right, torch.linalg.cross(v, right), -v])
        p = (vertices - center) @ frame.T
        screen = torch.cat([(p[:, :2] / reach * 0.5 + 0.5) * size - 0.5, p[:, 2:]], -1)
        ids, bary = rasterize(surface, screen[None], size, size)
        depth = torch.full((size, size), torch.inf, device=vertices.device)
        hit = ids[0] >= 0
        depth[hit] = (p[surface.faces[ids[0][hit]], 2] * bary[0][hit]).sum(-1)
        at = screen[:, :2].round().long().clamp(0, size - 1)
        cosine = (normal @ v).clamp(min=0)
        visible = p[:, 2] < depth[at[:, 1], at[:, 0]] + 0.008  # metres: own surface, slope
        seen += cosine * visible
        possible += cosine
    return seen / possible.clamp(min=1e-6)
