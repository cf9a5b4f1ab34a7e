"""The demo's z-buffer: its two programs agree, and it sees what lies in front."""

from __future__ import annotations

import torch

from guava_aug.apps.synthetic.raster import Surface, rasterize, rasterize_numba, rasterize_torch

SIZE = 48


def surface(faces: torch.Tensor, cutout: bool = False, alpha: torch.Tensor | None = None, bias: float = 0.0) -> Surface:
    n = len(faces)
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).expand(n, 3, 2).contiguous()
    alpha = torch.full((4, 4), 255, dtype=torch.uint8) if alpha is None else alpha
    return Surface(faces, corners, torch.full((n,), cutout), torch.full((n,), bias), alpha)


def soup(seed: int, faces: int, spread: float) -> tuple[Surface, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    center = torch.rand(2, faces, 1, 2, generator=g) * (SIZE + 20) - 10
    xy = center + (torch.rand(2, faces, 3, 2, generator=g) - 0.5) * spread
    z = 5 + torch.rand(2, faces, 3, 1, generator=g)
    f = torch.arange(3 * faces).view(faces, 3)
    s = surface(f)
    cutout = torch.rand(faces, generator=g) < 0.4
    alpha = (torch.rand(8, 8, generator=g) * 255).byte()
    return Surface(s.faces, s.corners, cutout, s.bias, alpha), torch.cat([xy, z], -1).flatten(1, 2)


def test_both_programs_agree_on_triangle_soups():
    for seed, spread in ((0, 3.0), (1, 12.0), (2, 90.0), (3, 0.4)):
        s, screen = soup(seed, 300, spread)
        a, b = rasterize_numba(s, screen, SIZE, SIZE), rasterize_torch(s, screen, SIZE, SIZE)
        assert (a >= 0).any()
        assert (a != b).float().mean() < 2e-3, seed  # edges that pass through a pixel centre may go either way


def test_the_nearer_face_is_seen_and_bias_brings_a_face_forward():
    tri = torch.tensor([[5.0, 5, 2], [40, 5, 2], [5, 40, 2]])
    screen = torch.cat([tri, tri + torch.tensor([0.0, 0, 0.002])])[None]
    s = surface(torch.arange(6).view(2, 3))
    assert rasterize(s, screen, SIZE, SIZE)[0].unique().tolist() == [-1, 0]
    biased = Surface(s.faces, s.corners, s.cutout, torch.tensor([0.0, 0.004]), s.alpha)
    for program in (rasterize_numba, rasterize_torch):
        assert program(biased, screen, SIZE, SIZE).unique().tolist() == [-1, 1]


def test_cut_out_texels_let_the_face_behind_through():
    tri = torch.tensor([[0.0, 0, 2], [47, 0, 2], [0, 47, 2]])
    screen = torch.cat([tri, tri + torch.tensor([0.0, 0, 1])])[None]
    alpha = torch.zeros(2, 2, dtype=torch.uint8)
    alpha[:, 0] = 255  # opaque where u < 0.5
    s = surface(torch.arange(6).view(2, 3), alpha=alpha)
    s = Surface(s.faces, s.corners, torch.tensor([True, False]), s.bias, alpha)
    for program in (rasterize_numba, rasterize_torch):
        ids = program(s, screen, SIZE, SIZE)[0]
        assert ids[4, 4] == 0 and ids[4, 36] == 1


def test_barycentrics_interpolate_the_pixel_centre():
    tri = torch.tensor([[3.0, 2, 2], [41, 7, 2], [9, 44, 2]])
    ids, bary = rasterize(surface(torch.arange(3).view(1, 3)), tri[None], SIZE, SIZE)
    y, x = torch.nonzero(ids[0] == 0, as_tuple=True)
    at = bary[0, y, x] @ tri[:, :2]
    assert torch.allclose(at, torch.stack([x, y], 1).float(), atol=1e-3)
    assert torch.allclose(bary[0, y, x].sum(1), torch.ones(len(x)), atol=1e-5)


def test_pictures_without_a_face_are_empty():
    screen = torch.tensor([[[-20.0, -20, 2], [-10, -20, 2], [-20, -10, 2]]])
    for program in (rasterize_numba, rasterize_torch):
        assert (program(surface(torch.arange(3).view(1, 3)), screen, SIZE, SIZE) == -1).all()
