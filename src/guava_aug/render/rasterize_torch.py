"""The Gaussian rasteriser in plain torch: slow and readable, the specification for every faster backend.

One frame is drawn in three steps:

1. `project`: every Gaussian becomes a 2D one (an EWA splat): pixel centre, 2x2 covariance, radius, rectangle of tiles.
2. `tile_lists`: the splats of a 16x16 tile, nearest first.
3. `composite`: front to back, per pixel:  w_i = a_i * prod_{j<i}(1 - a_j),  a_i = min(0.99, opacity * exp(power)).

Rules beyond these formulas, which a backend has to keep because they are visible: a splat acts on all pixels of the
tiles its 3-sigma square touches and on no other pixel; alphas under 1/255 count as zero; the splat that would bring the
transmittance below 1e-4 is not drawn and ends the pixel.

Source: Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (2023), sections 4 and 6; Zwicker
et al., "EWA Splatting" (2002), for the projection; constants and rounding as observed in images of the original
(tests/golden/raster_a.npz, raster_b.npz).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 16  # pixels
NEAR = 0.2  # metres: what is not beyond this is culled
FRUSTUM_MARGIN = 1.3  # the local affine map is taken at a ray no further out than this many half fields of view
LOW_PASS = 0.3  # px^2 on both diagonal entries: a splat is never thinner than a pixel
MIN_EIGEN_GAP = 0.1  # px^4, keeps the root of the radius real
RADIUS_LIMIT = float(2**30)  # pixels: what is wider is culled, it would not fit an int32
ALPHA_MAX = 0.99
ALPHA_MIN = 1.0 / 255.0
TRANSMITTANCE_MIN = 1e-4
MIN_COVERAGE = 0.000025  # antialias: least det / det_low_passed

SPLATS_PER_STEP = 512  # bounds memory: [SPLATS_PER_STEP, TILE * TILE] numbers at a time


@dataclass(frozen=True)
class Splats:
    """N Gaussians projected by one camera."""

    centers: Tensor  # [N, 2] pixels
    conics: Tensor  # [N, 3] inverse covariance (xx, xy, yy), 1/px^2
    opacities: Tensor  # [N]
    depths: Tensor  # [N] camera z, metres
    radii: Tensor  # [N] int32 pixels, 0 = culled
    tile_min: Tensor  # [N, 2] int64 first tile (column, row)
    tile_max: Tensor  # [N, 2] int64 one past the last tile


def rasterize_frames(
    means: Tensor,  # [T, N, 3]
    quats: Tensor,  # [T, N, 4]
    scales: Tensor,  # [T, N, 3]
    opacities: Tensor,  # [N]
    features: Tensor,  # [N, C]
    viewmats: Tensor,  # [T, 4, 4]
    K: Tensor,  # [3, 3]
    background: Tensor,  # [C]
    *,
    width: int,
    height: int,
    scale_modifier: float,
    antialias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return image [T,C,H,W], alpha [T,1,H,W], inverse_depth [T,1,H,W], radii [T,N] int32; arguments as `rasterize`.

    Works in the dtype of its inputs (float64 gives a reference for rounding). Differentiable but for the decisions
    (tile, order, thresholds); with gradients on, memory grows with the number of (splat, tile) pairs.
    """
    T, C = means.shape[0], features.shape[1]
    radii = torch.empty(means.shape[:2], dtype=torch.int32, device=means.device)
    frames = []
    for t in range(T):
        splats = project(
            means[t], quats[t], scales[t] * scale_modifier, opacities, viewmats[t], K, width, height, antialias
        )
        radii[t] = splats.radii
        frames.append(_draw(splats, features, background, width, height))
    planes = torch.stack(frames) if frames else means.new_empty(0, C + 2, height, width)
    return planes[:, :C], planes[:, C : C + 1], planes[:, C + 1 :], radii


def project(
    means: Tensor,  # [N, 3]
    quats: Tensor,  # [N, 4]
    scales: Tensor,  # [N, 3]
    opacities: Tensor,  # [N]
    viewmat: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
    antialias: bool,
) -> Splats:
    """Return the N Gaussians as splats in pixels; a culled one has radius 0 and an empty tile rectangle."""
    fx, fy = K[0, 0], K[1, 1]
    z = affine(means, viewmat[2])
    in_front = z > NEAR
    z = torch.where(in_front, z, torch.ones_like(z))  # any harmless number; those rows are culled below
    # fx x/z + cx, by way of the -1..1 coordinates: their rounding (3e-5 px in a 512 image) is part of the picture.
    w = 1 / (z + 1e-7)
    ndc_x, ndc_y = affine(means, viewmat[0] * (2 * fx / width)) * w, affine(means, viewmat[1] * (2 * fy / height)) * w
    center_x = 0.5 * ((ndc_x + 1) * width - 1) + (K[0, 2] - (width - 1) / 2)
    center_y = 0.5 * ((ndc_y + 1) * height - 1) + (K[1, 2] - (height - 1) / 2)
    centers = torch.stack([center_x, center_y], dim=-1)  # [N, 2]

    # Sigma2D = A A^T with A = J W R S, in double: long thin splats cancel all but the last digits of the determinant.
    depth, rotation = z.double(), viewmat[:3, :3].double()
    slope_x = (affine(means, viewmat[0]) / z).double().clamp(*limits(width, fx, K[0, 2]))
    slope_y = (affine(means, viewmat[1]) / z).double().clamp(*limits(height, fy, K[1, 2]))
    zero = torch.zeros_like(depth)
    J = torch.stack([fx / depth, zero, -fx * slope_x / depth, zero, fy / depth, -fy * slope_y / depth], dim=-1)
    A = J.view(-1, 2, 3) @ rotation @ (rotation_matrices(quats.double()) * scales.double()[:, None, :])  # [N, 2, 3]
    xx, xy, yy = (A[:, 0] ** 2).sum(-1), (A[:, 0] * A[:, 1]).sum(-1), (A[:, 1] ** 2).sum(-1)
    det_thin = xx * yy - xy * xy
    xx, yy = xx + LOW_PASS, yy + LOW_PASS
    det = xx * yy - xy * xy

    half_trace = 0.5 * (xx + yy)
    root = torch.sqrt(torch.clamp(half_trace * half_trace - det, min=MIN_EIGEN_GAP))
    radii = torch.ceil(3.0 * torch.sqrt(half_trace + root))

    # A square of tiles around the centre. Clamping before the cast keeps far-away centres from overflowing int.
    radii = radii.detach().to(centers.dtype)
    grid = centers.new_tensor([-(-width // TILE), -(-height // TILE)])
    tile_min = torch.minimum(((centers.detach() - radii[:, None]) / TILE).clamp(min=0), grid)
    tile_max = torch.minimum(((centers.detach() + radii[:, None] + (TILE - 1)) / TILE).clamp(min=0), grid)
    finite = torch.isfinite(centers).all(-1) & torch.isfinite(det) & (radii < RADIUS_LIMIT)
    tile_min, tile_max = (torch.nan_to_num(edge).to(torch.int64) for edge in (tile_min, tile_max))
    seen = in_front & finite & (det != 0) & (tile_max > tile_min).all(-1)
    det = torch.where(seen, det, torch.ones_like(det))
    if antialias:
        opacities = opacities * torch.sqrt(torch.clamp(det_thin / det, min=MIN_COVERAGE)).to(opacities.dtype)
    return Splats(
        centers=centers,
        conics=(torch.stack([yy, -xy, xx], dim=-1) / det[:, None]).to(centers.dtype),
        opacities=opacities,
        depths=z,
        radii=torch.where(seen, radii, torch.zeros_like(radii)).to(torch.int32),
        tile_min=tile_min,
        tile_max=torch.where(seen[:, None], tile_max, tile_min),
    )


def affine(points: Tensor, row: Tensor) -> Tensor:
    """Return row . (x, y, z, 1), [N], of points [N, 3], rounded in the order measured on the original's binary.

    Depths and centres then agree with it to the last bit, so near-equal depths sort alike and few splats change sides
    at a threshold.
    """
    x, y, z = points.unbind(-1)
    return fused(z, row[2], fused(x, row[0], y * row[1])) + row[3]


def fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return a * b + c with a single rounding to the dtype of a."""
    return (a.double() * b.double() + c.double()).to(a.dtype)


def limits(size: int, focal: Tensor, center: Tensor) -> tuple[float, float]:
    """Return the least and the largest x / z of the local affine map: about the middle of the visible range."""
    focal, center = focal.detach(), center.detach()
    reach, middle = FRUSTUM_MARGIN * size / (2 * float(focal)), ((size - 1) / 2 - float(center)) / float(focal)
    return middle - reach, middle + reach


def rotation_matrices(quats: Tensor) -> Tensor:
    """Return matrices [N, 3, 3] of quaternions [N, 4] (w, x, y, z) as given: only unit ones give rotations."""
    w, x, y, z = quats.unbind(-1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    ).view(-1, 3, 3)  # fmt: skip


def _draw(splats: Splats, features: Tensor, background: Tensor, width: int, height: int) -> Tensor:
    """Return one frame [C + 2, H, W]: C feature channels over the background, alpha, inverse depth."""
    device, dtype = splats.centers.device, splats.centers.dtype
    columns, rows = -(-width // TILE), -(-height // TILE)
    channels = torch.cat([features, (1.0 / splats.depths)[:, None]], dim=1)  # [N, C + 1]
    backdrop = torch.cat([background, background.new_zeros(1)])  # [C + 1]: nothing is infinitely far
    offset = torch.arange(TILE * TILE, device=device)
    offset = torch.stack([offset % TILE, offset // TILE], dim=-1)  # [P, 2] x, y inside a tile

    nearest_first = torch.argsort(splats.depths, stable=True)  # equal depths: lower index first
    nearest_first = nearest_first[splats.radii[nearest_first] > 0]
    bands = []
    for row in range(rows):
        in_row = nearest_first[(splats.tile_min[nearest_first, 1] <= row) & (row < splats.tile_max[nearest_first, 1])]
        first, last = splats.tile_min[in_row, 0], splats.tile_max[in_row, 0]
        tiles = []
        for column in range(columns):
            ids = in_row[(first <= column) & (column < last)]
            pixels = (offset + TILE * offset.new_tensor([column, row])).to(dtype)  # [P, 2]
            colors, transmittance = composite(splats, channels, ids, pixels)
            colors = colors + transmittance[:, None] * backdrop
            tile = torch.cat([colors[:, :-1], 1 - transmittance[:, None], colors[:, -1:]], dim=1)  # [P, C + 2]
            tiles.append(tile.T.view(-1, TILE, TILE))
        bands.append(torch.cat(tiles, dim=2))
    return torch.cat(bands, dim=1)[:, :height, :width]


def composite(splats: Splats, channels: Tensor, ids: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of w_i channels_i [P, C] and the remaining transmittance [P] at `pixels` [P, 2].

    `ids` [n] are the splats, nearest first.
    """
    P = pixels.shape[0]
    colors = channels.new_zeros(P, channels.shape[1])
    transmittance = channels.new_ones(P)
    finished = torch.zeros(P, dtype=torch.bool, device=pixels.device)
    for start in range(0, ids.shape[0], SPLATS_PER_STEP):
        step = ids[start : start + SPLATS_PER_STEP]
        alphas = splat_alphas(splats, step, pixels)  # [n, P]
        after = torch.cumprod(torch.cat([transmittance[None], 1 - alphas]), dim=0)  # [n + 1, P], if nothing stopped
        before, after = after[:-1], after[1:]
        # `after` never rises, so all from the first splat under the limit on is cut: that splat and whatever follows.
        drawn = (after >= TRANSMITTANCE_MIN) & ~finished
        colors = colors + torch.where(drawn, alphas * before, torch.zeros_like(before)).T @ channels[step]
        transmittance = torch.where(drawn, after, transmittance).amin(dim=0)
        finished = finished | ~drawn[-1]
        if bool(finished.all()):
            break
    return colors, transmittance


def splat_alphas(splats: Splats, ids: Tensor, pixels: Tensor) -> Tensor:
    """Return [n, P] opacity of each splat at each pixel; exactly 0 where it does not count."""
    dx, dy = (splats.centers[ids][:, None, :] - pixels[None, :, :]).unbind(-1)  # [n, P]
    a, b, c = splats.conics[ids][:, :, None].unbind(1)  # [n, 1]
    power = -0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy
    alphas = torch.clamp(splats.opacities[ids][:, None] * torch.exp(power.clamp(max=0)), max=ALPHA_MAX)
    return torch.where((power <= 0) & (alphas >= ALPHA_MIN), alphas, torch.zeros_like(alphas))
