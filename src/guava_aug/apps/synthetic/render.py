"""Pictures of subjects: premultiplied colour and soft mask of posed bodies through any camera.

Plain torch on any device (the z-buffer alone has a numba twin for the CPU, see `raster`). Shading happens in
linear light: a sky-and-floor ambient darkened by baked occlusion, wrapped directional lights, a faint gloss, and
shadows where the light casts them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from guava_aug.apps.synthetic.raster import Surface, rasterize
from guava_aug.apps.synthetic.shadows import lit_share
from guava_aug.body.ehm import EhmModel, PosedBody
from guava_aug.body.params import Identity, Motion
from guava_aug.body.surface_normals import vertex_normals
from guava_aug.views.cameras import Cameras, camera_center

SKIN, CLOTH, HAIR, EYE, MOUTH, PLASTIC, METAL = range(7)
# per material: how far light wraps round (r, g, b), and strength and sharpness of the gloss
_WRAP = ((0.42, 0.26, 0.20), (0.20, 0.20, 0.20), (0.35, 0.35, 0.35), (0.3, 0.3, 0.3), (0.4, 0.3, 0.3),
         (0.1, 0.1, 0.1), (0.0, 0.0, 0.0))  # fmt: skip
_GLOSS = (0.045, 0.012, 0.09, 0.5, 0.10, 0.35, 0.9)
_SHARPNESS = (18.0, 8.0, 22.0, 160.0, 40.0, 90.0, 50.0)


@dataclass(frozen=True)
class Light:
    """A light set-up. Directions point TO the light in the y-up frame: x to the person's left, z to the front."""

    directions: Tensor  # [L, 3] unit
    colors: Tensor  # [L, 3] linear
    sky: Tensor  # [3] ambient from above
    floor: Tensor  # [3] ambient from below
    shadows: Tensor | None = None  # [L] how dark the shadows of each are, 0 none to 1; None: nothing casts a shadow
    penumbra: Tensor | None = None  # [L] metres, radius of their soft edge

    def to(self, device: torch.device | str) -> Light:
        """Return a copy with all tensors on `device`."""
        there = lambda tensor: None if tensor is None else tensor.to(device)
        return Light(
            self.directions.to(device), self.colors.to(device), self.sky.to(device), self.floor.to(device),
            there(self.shadows), there(self.penumbra),
        )  # fmt: skip


@dataclass(frozen=True)
class Skin:
    """The drawn mesh of one person: how it hangs on the body model, and what it looks like."""

    surface: Surface
    ids: Tensor  # [n, K] int64 model vertices
    weights: Tensor  # [n, K]
    offsets: Tensor  # [n, 3] metres in the T pose
    material: Tensor  # [F] int64
    occlusion: Tensor  # [n] 1 open, 0 buried
    atlas: Tensor  # [A, A, 3] uint8 sRGB

    def to(self, device: torch.device | str) -> Skin:
        """Return a copy with all tensors on `device`."""
        return Skin(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def vertices(self, posed: PosedBody) -> Tensor:
        """Return [T, n, 3] in the tracked world."""
        at = posed.vertices[:, self.ids]  # [T, n, K, 3]
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
    lit = None if light.shadows is None else _lit(vertices, skin.surface, t, corner, w, normal, light)
    color = shade(sample(skin.atlas, uv), normal, to_eye, occlusion, skin.material[face], light, lit)
    picture = torch.zeros(*ids.shape, 4, device=color.device)
    picture[t, y, x, :3] = color
    picture[t, y, x, 3] = 1
    small = torch.nn.functional.avg_pool2d(picture.permute(0, 3, 1, 2), supersample)
    return small[:, :3], small[:, 3:]


def _lit(
    vertices: Tensor, surface: Surface, t: Tensor, corner: Tensor, w: Tensor, normal: Tensor, light: Light
) -> Tensor:
    """Return [n, L] how much of each light reaches the seen points: corners [n, 3], barycentrics w, frames t [n]."""
    assert light.shadows is not None and light.penumbra is not None
    flip = vertices.new_tensor([1.0, -1.0, -1.0])  # y up -> tracked world
    points = (vertices[t[:, None], corner] * w[..., None]).sum(1)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    lit = points.new_ones(len(points), len(light.directions))
    for k, (dark, penumbra) in enumerate(zip(light.shadows.tolist(), light.penumbra, strict=True)):
        for frame in range(len(vertices)) if dark > 0 else ():
            mine = t == frame
            share = lit_share(
                points[mine], normal[mine], vertices[frame], surface, light.directions[k] * flip, penumbra
            )
            lit[mine, k] = 1 - dark * (1 - share)
    return lit


def shade(
    albedo: Tensor, normal: Tensor, to_eye: Tensor, occlusion: Tensor, material: Tensor, light: Light,
    lit: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return [n, 3] sRGB of lit points: albedo sRGB 0..1, normals and directions in the tracked world.

    lit: [n, L] how much of each light is not cast off, 0..1; None: all of it.
    """
    flip = albedo.new_tensor([1.0, -1.0, -1.0])  # tracked world -> y up
    normal = torch.nn.functional.normalize(normal * flip, dim=-1)
    to_eye = to_eye * flip
    linear = albedo**2.2
    wrap = albedo.new_tensor(_WRAP)[material]
    up = normal[:, 1:2] * 0.5 + 0.5
    total = (light.floor + (light.sky - light.floor) * up) * occlusion[:, None]
    gloss = torch.zeros_like(total)
    for k, (direction, color) in enumerate(zip(light.directions, light.colors, strict=True)):
        if lit is not None:
            color = color * lit[:, k : k + 1]
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
