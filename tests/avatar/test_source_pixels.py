"""The source frame's own pixels in new views."""

from __future__ import annotations

import torch

from guava_aug.avatar.source_pixels import SourceBlend, SourcePixels, look_up, prepare_picture, source_places

SIZE = 32


def _picture() -> torch.Tensor:
    rgb = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return prepare_picture(torch.cat([rgb, torch.ones(1, 1, SIZE, SIZE)], 1), SIZE)


def _grid() -> torch.Tensor:
    line = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y])[None]


def test_places_of_the_same_camera_give_the_picture_itself():
    alpha = torch.full((1, 1, SIZE, SIZE), 0.8)
    places = torch.cat([_grid(), torch.ones(1, 1, SIZE, SIZE)], 1) * 0.8  # splatted: times alpha
    found, weight = look_up(places, alpha, _picture())
    torch.testing.assert_close(found, _picture()[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(weight, torch.ones_like(weight))


def test_half_seen_gaussians_do_not_move_the_place():
    share = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.1
    places = torch.cat([_grid(), torch.ones(1, 1, SIZE, SIZE)], 1) * share
    found, weight = look_up(places, torch.ones_like(share), _picture())
    torch.testing.assert_close(found, _picture()[:, :3], atol=1e-4, rtol=0)
    torch.testing.assert_close(weight, share)


def test_nothing_is_taken_across_an_edge_between_two_surfaces():
    xy = _grid().clone()
    xy[..., SIZE // 2 :] -= 0.9  # the right half shows what lies far to the left in the source
    _, weight = look_up(torch.cat([xy, torch.ones(1, 1, SIZE, SIZE)], 1), torch.ones(1, 1, SIZE, SIZE), _picture())
    assert (weight[..., SIZE // 2 - 1 : SIZE // 2 + 1] == 0).all()
    assert (weight[..., : SIZE // 2 - 2] > 0.99).all()


def test_the_edge_of_the_mask_is_not_used():
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 8:24, 8:24] = 1
    picture = prepare_picture(torch.cat([torch.full((1, 3, SIZE, SIZE), 0.5) * mask, mask], 1), SIZE)
    assert picture[0, 3, 10:22, 10:22].min() == 1
    assert picture[0, 3].sum() == 12 * 12
    assert picture[0, :3, 10:22, 10:22].sub(0.5).abs().max() < 1e-6


def test_weights_fall_with_the_angle_and_end_outside_the_picture():
    xy = torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.2, -0.3], [1.2, 0.0], [0.1, 0.1]])
    cosines = torch.tensor([1.0, 0.3, 0.05, 1.0, 1.0])
    places = source_places(xy, cosines, torch.tensor([1, 1, 1, 1, 0]))
    torch.testing.assert_close(places[:, 2], torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(places[:2, :2], xy[:2] * places[:2, 2:])


@torch.no_grad()
def test_the_gate_lies_between_the_refined_and_the_found_colour():
    torch.manual_seed(0)
    blend, alpha = SourceBlend(), torch.ones(1, 1, SIZE, SIZE)
    refined = torch.rand(1, 3, SIZE, SIZE)
    places = torch.cat([_grid(), torch.ones(1, 1, SIZE, SIZE)], 1)
    for bias, expected in ((-30.0, refined), (30.0, _picture()[:, :3])):
        blend.gate[-1].weight.zero_()
        blend.gate[-1].bias.fill_(bias)
        torch.testing.assert_close(blend(refined, alpha, places, _picture()), expected, atol=1e-5, rtol=0)


def test_rows_keep_the_picture():
    source = SourcePixels(torch.rand(4, 3), _picture()[0])
    kept = source.rows(torch.tensor([True, False, True, False]))
    assert torch.equal(kept.places, source.places[[0, 2]])
    assert kept.picture is source.picture
