"""The source frame's own pixels in new views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from guava_aug.apps.synthetic import demo_root
from guava_aug.avatar.config import ModelConfig
from guava_aug.avatar.model import GuavaModel, load_model
from guava_aug.avatar.network import ReconstructionNetwork
from guava_aug.avatar.source_pixels import (
    SourceBlend,
    SourcePlaces,
    face_edges,
    faces_of_vertices,
    look_up,
    prepare_picture,
    seen_weight,
)
from guava_aug.errors import AssetError
from guava_aug.tracked import TrackedVideo, list_videos
from guava_aug.views import tracked_cameras
from tiny_model import SIZE as TINY
from tiny_model import write_tiny_model

SIZE = 32


def _picture() -> torch.Tensor:
    rgb = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return prepare_picture(torch.cat([rgb, torch.ones(1, 1, SIZE, SIZE)], 1), SIZE)


def _constant_map(origin: tuple[float, float], matrix: list[list[float]], share: torch.Tensor | float) -> torch.Tensor:
    """Return [1, 7, SIZE, SIZE] splatted maps that are the same everywhere, times `share`."""
    numbers = torch.tensor([*origin, *matrix[0], *matrix[1], 1.0])
    return numbers[:, None, None].expand(7, SIZE, SIZE)[None] * share


def test_the_map_of_the_same_camera_gives_the_picture_itself() -> None:
    alpha = torch.full((1, 1, SIZE, SIZE), 0.8)
    found, weight = look_up(_constant_map((0, 0), [[1, 0], [0, 1]], 0.8), alpha, _picture())
    torch.testing.assert_close(found, _picture()[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(weight, torch.ones_like(weight))


def test_a_map_is_followed() -> None:
    """A quarter turn: right goes down in the source."""
    found, _ = look_up(_constant_map((0, 0), [[0, -1], [1, 0]], 1.0), torch.ones(1, 1, SIZE, SIZE), _picture())
    torch.testing.assert_close(found, torch.rot90(_picture()[:, :3], 1, (2, 3)), atol=1e-4, rtol=0)


def test_half_seen_gaussians_do_not_move_the_place() -> None:
    share = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.1
    found, weight = look_up(_constant_map((0, 0), [[1, 0], [0, 1]], share), torch.ones_like(share), _picture())
    torch.testing.assert_close(found, _picture()[:, :3], atol=1e-4, rtol=0)
    torch.testing.assert_close(weight, share)


def test_nothing_is_taken_across_an_edge_between_two_surfaces() -> None:
    maps = _constant_map((0, 0), [[1, 0], [0, 1]], 1.0).clone()
    maps[:, 0, :, SIZE // 2 :] -= 0.9  # the right half shows what lies far to the left in the source
    _, weight = look_up(maps, torch.ones(1, 1, SIZE, SIZE), _picture())
    assert (weight[..., SIZE // 2 - 1 : SIZE // 2 + 1] == 0).all()
    assert (weight[..., : SIZE // 2 - 2] > 0.99).all()


def test_maps_agree_with_the_surface_they_lie_on() -> None:
    """Two triangles move affinely from the source to the view; every Gaussian's map undoes its triangle's motion."""
    faces = torch.tensor([[0, 1, 2], [1, 3, 2]])
    source = torch.tensor([[-0.5, -0.5], [0.5, -0.4], [-0.4, 0.5], [0.6, 0.6]])
    move, shift = torch.tensor([[0.3, -0.5], [0.8, 0.4]]), torch.tensor([0.1, -0.2])
    view = (source @ move.T + shift)[None]
    places = SourcePlaces(source, torch.tensor([1.0, 0.5, 1.0, 1.0]), face_edges(source, faces))
    maps = places.maps_from(view, faces, faces_of_vertices(faces, 4))
    torch.testing.assert_close(maps[0, :, 6], places.weight)
    per_weight = maps[0] / maps[0, :, 6:]
    torch.testing.assert_close(per_weight[:, 2:6].view(4, 2, 2), torch.linalg.inv(move).expand(4, 2, 2))
    torch.testing.assert_close(per_weight[:, :2], (-torch.linalg.inv(move) @ shift).expand(4, 2))


def test_faces_seen_from_the_edge_keep_their_own_place() -> None:
    faces = torch.tensor([[0, 1, 2]])
    source = torch.tensor([[-0.5, -0.5], [0.5, -0.4], [-0.4, 0.5]])
    places = SourcePlaces(source, torch.ones(3), face_edges(source, faces))
    edge_on = torch.tensor([[[0.0, -0.5], [0.001, 0.5], [0.0, 0.2]]])
    maps = places.maps_from(edge_on, faces, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(maps[0, :, :2], source)
    assert (maps[0, :, 2:6] == 0).all()


def test_a_face_without_an_area_gives_finite_maps() -> None:
    faces, point = torch.tensor([[0, 1, 2]]), torch.full((3, 2), 0.2)
    places = SourcePlaces(point, torch.zeros(3), face_edges(point, faces))
    for spread in (0.0, 1e-12):
        seen = point[None] + spread * torch.rand(1, 3, 2, generator=torch.Generator().manual_seed(0))
        assert places.maps_from(seen, faces, torch.zeros(3, dtype=torch.int64)).isfinite().all()


def test_each_vertex_follows_its_first_face() -> None:
    assert faces_of_vertices(torch.tensor([[3, 1, 2], [1, 0, 2]]), 5).tolist() == [1, 0, 0, 0, 1]


def test_the_edge_of_the_mask_is_not_used() -> None:
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., 8:24, 8:24] = 1
    picture = prepare_picture(torch.cat([torch.full((1, 3, SIZE, SIZE), 0.5) * mask, mask], 1), SIZE)
    assert picture[0, 3, 10:22, 10:22].min() == 1
    assert picture[0, 3].sum() == 12 * 12
    assert picture[0, :3, 10:22, 10:22].sub(0.5).abs().max() < 1e-6


def test_weights_fall_with_the_angle_and_end_outside_the_picture() -> None:
    xy = torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.2, -0.3], [1.2, 0.0], [0.1, 0.1]])
    weight = seen_weight(xy, torch.tensor([1.0, 0.3, 0.05, 1.0, 1.0]), torch.tensor([1, 1, 1, 1, 0]))
    torch.testing.assert_close(weight, torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0]))


@torch.no_grad()
def test_the_gate_lies_between_the_refined_and_the_found_colour() -> None:
    torch.manual_seed(0)
    blend, alpha = SourceBlend(), torch.ones(1, 1, SIZE, SIZE)
    refined, maps = torch.rand(1, 3, SIZE, SIZE), _constant_map((0, 0), [[1, 0], [0, 1]], 1.0)
    last = blend.gate[-1]
    assert isinstance(last, torch.nn.Conv2d) and last.bias is not None
    for bias, expected in ((-30.0, refined), (30.0, _picture()[:, :3])):
        last.weight.zero_()
        last.bias.fill_(bias)
        torch.testing.assert_close(blend(refined, alpha, maps, _picture()), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GuavaModel:
    """Return the tiny model with source pixels, whose gate takes all that is found."""
    plain = load_model(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))
    config = replace(plain.config, source_pixels=True, visibility="point")
    network = ReconstructionNetwork(config, len(plain.body.assets.body.v_template))
    network.load_state_dict(plain.network.state_dict(), strict=False)
    last = network.source_blend.gate[-1]
    assert isinstance(last, torch.nn.Conv2d) and last.bias is not None
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(30.0)
    return GuavaModel(config, network, plain.refiner, plain.body)


def test_the_source_camera_gets_the_source_frame_back(model: GuavaModel) -> None:
    video = TrackedVideo.open(demo_root(), list_videos(demo_root())[0])
    avatar = model.reconstruct(video.source_at(model.config.feature_img_size))
    cameras = tracked_cameras(video.viewmats[0], TINY)
    posed = avatar.pose(video.motion[:2])
    drawn, places = model._rasterize_both(posed, cameras)
    assert posed.source is not None
    found, weight = look_up(places[:1], drawn.alpha[:1], posed.source.picture[None])
    sure = weight > 0.9
    assert sure.float().mean() > 0.02
    true = posed.source.picture[:3] / posed.source.picture[3:].clamp(min=1e-4)
    assert ((found - true).abs() * sure).max() < 0.05
    rgb = model.render_layers(posed, cameras).rgb
    assert ((rgb[:1] - true).abs() * sure).max() < 0.15  # at least nine tenths of it
    alone = model.render_layers(posed[1:2], cameras).rgb  # a frame is the same alone
    torch.testing.assert_close(alone, rgb[1:2], atol=1e-5, rtol=0)


def test_a_device_without_triton_draws_maps_with_its_own_backend(
    model: GuavaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = TrackedVideo.open(demo_root(), list_videos(demo_root())[0])
    posed = model.reconstruct(video.source_at(model.config.feature_img_size)).pose(video.motion[:1])
    monkeypatch.setattr(model, "device", torch.device("cuda"))  # its tensors stay where they are
    monkeypatch.setattr(model, "backend", "torch")
    monkeypatch.setattr(GuavaModel, "_draw_places", lambda *_: pytest.fail("needs Triton"))
    monkeypatch.setattr(GuavaModel, "_rasterize_both", lambda *_: (_ for _ in ()).throw(StopAsyncIteration))
    with pytest.raises(StopAsyncIteration):
        model.render_layers(posed, tracked_cameras(video.viewmats[0], TINY))


def test_without_source_pixels_nothing_of_it_is_made(tmp_path: Path) -> None:
    plain = load_model(write_tiny_model(tmp_path / "tiny.safetensors"))
    video = TrackedVideo.open(demo_root(), list_videos(demo_root())[0])
    avatar = plain.reconstruct(video.source_at(plain.config.feature_img_size))
    assert avatar.source is None and avatar.pose(video.motion[:1]).source is None
    assert not any("source_blend" in name for name in plain.network.state_dict())


def test_a_configuration_with_visibility_by_face_is_refused() -> None:
    with pytest.raises(AssetError, match="source_pixels is True; expected false with visibility 'face'"):
        replace(ModelConfig(), source_pixels=True).checked("config.yaml")
