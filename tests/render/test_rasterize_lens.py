"""Rasterising through any pinhole lens: wide, of two focal lengths, with the principal point anywhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guava_aug.render.rasterize import rasterize

WIDTH, HEIGHT = 64, 48
BACKENDS = ["torch", "numba"]


def lens(fx: float, fy: float, cx: float, cy: float) -> Tensor:
    return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def scene(points: Tensor, scale: float = 0.02) -> dict[str, Tensor]:
    n = len(points)
    return {
        "means": points[None],
        "quats": torch.tensor([1.0, 0, 0, 0]).expand(1, n, 4),
        "scales": torch.full((1, n, 3), scale),
        "opacities": torch.full((n,), 0.9),
        "features": torch.rand(n, 2, generator=torch.Generator().manual_seed(0)) + 0.5,
        "viewmats": torch.eye(4)[None],
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("K", [lens(45, 45, 31.5, 23.5), lens(30, 52, 31.5, 23.5), lens(60, 40, 5.0, 44.0)])
def test_a_small_splat_is_where_the_lens_says(backend: str, K: Tensor) -> None:
    for x, y in ((20.0, 15.0), (50.0, 40.0), (3.0, 44.0)):  # pixels
        z = 1.7
        point = torch.tensor([[(x - K[0, 2]) / K[0, 0] * z, (y - K[1, 2]) / K[1, 1] * z, z]])
        alpha = rasterize(**scene(point, 1e-4), K=K, width=WIDTH, height=HEIGHT, backend=backend).alpha[0, 0]
        rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        found = [float((alpha * grid).sum() / alpha.sum()) for grid in (columns, rows)]
        assert found == pytest.approx([x, y], abs=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_moved_principal_point_moves_the_picture_and_nothing_else(backend: str) -> None:
    """Also for splats farther from the axis than a centred lens would see, whose shape must not be cut off."""
    shift = 40  # pixels, more than half of the image
    points = torch.tensor([[1.15, 0.1, 1.0], [1.4, -0.3, 1.2], [0.8, 0.4, 0.9], [1.9, 0.2, 1.5]])
    splats = scene(points, 0.05)
    wide = rasterize(**splats, K=lens(40, 40, 63.5, 23.5), width=2 * WIDTH, height=HEIGHT, backend=backend)
    moved = rasterize(**splats, K=lens(40, 40, 63.5 - WIDTH, 23.5), width=WIDTH, height=HEIGHT, backend=backend)
    assert float(moved.alpha.max()) > 0.5
    for whole, part in ((wide.image, moved.image), (wide.alpha, moved.alpha)):
        torch.testing.assert_close(part, whole[..., WIDTH:], atol=2e-5, rtol=1e-4)
    assert shift < WIDTH


def test_both_backends_agree_through_a_true_lens() -> None:
    g = torch.Generator().manual_seed(3)
    points = torch.randn(300, 3, generator=g) * torch.tensor([0.5, 0.4, 0.3]) + torch.tensor([0.0, 0.0, 1.6])
    splats = scene(points, 0.03)
    K = lens(55, 50, 20.0, 30.0)
    torch_, numba_ = (rasterize(**splats, K=K, width=WIDTH, height=HEIGHT, backend=b) for b in BACKENDS)  # type: ignore
    torch.testing.assert_close(numba_.image, torch_.image, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(numba_.inverse_depth, torch_.inverse_depth, atol=1e-4, rtol=1e-3)
