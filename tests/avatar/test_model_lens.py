"""A true lens instead of the format's nearly orthographic one: source inference, rendering, a whole video."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from fakes import FakeModel, write_clip
from guava_aug import augment
from guava_aug.apps.synthetic import demo_root
from guava_aug.avatar.model import GuavaModel, load_model
from guava_aug.batch.fingerprint import input_digest
from guava_aug.output.tree import sidecar_path
from guava_aug.tracked import Source, TrackedVideo, list_videos
from guava_aug.views import View, tracked_cameras
from guava_aug.views.cameras import Lens, intrinsics, resized_K
from tiny_model import SIZE, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GuavaModel:
    return load_model(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def source(model: GuavaModel) -> Source:
    video = TrackedVideo.open(demo_root(), list_videos(demo_root())[0])
    return video.source_at(model.config.feature_img_size)


def near(source: Source, distance: float, focal: float, center: tuple[float, float]) -> Source:
    """The same source frame through a lens at `distance` metres; focal and center in units of the image's size."""
    size = source.image.shape[-1]
    viewmat = source.viewmat.clone()
    viewmat[2, 3] = distance
    K = torch.tensor([[focal * size, 0, center[0] * size - 0.5], [0, focal * size, center[1] * size - 0.5], [0, 0, 1]])
    return replace(source, viewmat=viewmat, K=K)


def test_the_format_s_own_lens_given_is_the_format_s_own_lens(model: GuavaModel, source: Source) -> None:
    size = source.image.shape[-1]
    given = model.infer(replace(source, K=intrinsics(size, size)))
    absent = model.infer(source)
    for name in ("prj_xy", "vertex_features", "uv_visible", "uv_features", "pixel_faces"):
        assert torch.equal(getattr(given, name), getattr(absent, name)), name


def test_vertices_are_projected_through_the_lens(model: GuavaModel, source: Source) -> None:
    through = near(source, 1.9, 1.1, (0.45, 0.6))
    raw = model.infer(through)
    vertices = model.body(through.identity, through.motion).vertices[0]
    camera = vertices @ through.viewmat[:3, :3].T + through.viewmat[:3, 3]
    assert through.K is not None
    pixels = (camera / camera[:, 2:]) @ through.K.T  # [P, 3]
    size = through.image.shape[-1]
    expected = (2 * pixels[:, :2] - (size - 1)) / size  # -1..1 from edge to edge
    torch.testing.assert_close(raw.prj_xy[:, :2], expected, atol=2e-5, rtol=1e-5)
    assert not torch.equal(raw.pixel_faces, model.infer(source).pixel_faces)  # perspective hides other faces


def test_the_avatar_is_rendered_where_its_body_is(model: GuavaModel, source: Source) -> None:
    through = near(source, 1.9, 1.1, (0.45, 0.6))
    posed = model.reconstruct(through).pose(through.motion)
    size = through.image.shape[-1]
    assert through.K is not None and posed.joints is not None
    K = resized_K(through.K, (size, size), (SIZE, SIZE))
    cameras = tracked_cameras(through.viewmat, SIZE, K=K)
    alpha = model.render_layers(posed, cameras).alpha[0, 0]
    joints = posed.joints[0] @ through.viewmat[:3, :3].T + through.viewmat[:3, 3]
    xy = ((joints / joints[:, 2:]) @ K.T)[:, :2].round().long()
    inside = ((xy >= 0) & (xy < SIZE)).all(1)
    assert inside.sum() > 10
    x, y = xy[inside].T
    assert (alpha[y, x] > 0.05).float().mean() > 0.9  # joints lie within the body
    assert (alpha > 0.05).float().mean() < 0.8


def test_a_lens_keeps_its_field_of_view_at_other_sizes() -> None:
    K = torch.tensor([[900.0, 0, 500.0], [0, 880.0, 530.0], [0, 0, 1]])
    small = resized_K(K, (1024, 1024), (512, 512))
    assert vars(Lens.of(small, 512, 512)) == pytest.approx(vars(Lens.of(K, 1024, 1024)), abs=1e-6)
    assert resized_K(K, (1024, 1024), (1024, 1024)) is K
    assert Lens.of(intrinsics(512, 512), 512, 512) == Lens(24.0, 24.0)
    assert Lens.of(intrinsics(518, 518), 518, 518) == Lens(24.0, 24.0)


class CameraNoting(FakeModel):
    """Keeps the lenses that it is asked to render through."""

    def render(self, posed, cameras, background: Tensor) -> Tensor:
        self.calls.append(str(cameras.K.tolist()))
        return super().render(posed, cameras, background)


@pytest.mark.parametrize("has_lens", [False, True])
def test_a_clip_s_lens_reaches_pictures_and_files(has_lens: bool, tmp_path: Path) -> None:
    K = torch.tensor([[70.0, 0, 30.0], [0, 72.0, 33.0], [0, 0, 1]])
    write_clip(tmp_path / "tracked", "clip", frames=3)
    opened = TrackedVideo.open(tmp_path / "tracked", "clip")
    assert opened.K is None
    stored = (opened.image_size, opened.image_size)
    if has_lens:
        info = opened.path / "videos_info.json"
        content = json.loads(info.read_text())
        content["clip"]["K"] = K.tolist()
        info.write_text(json.dumps(content))
        with_lens = TrackedVideo.open(tmp_path / "tracked", "clip")
        assert with_lens.K is not None and torch.equal(with_lens.K, K)
        assert input_digest(with_lens) != input_digest(opened)
    model = CameraNoting()
    size = model.config.image_size
    result = augment(tmp_path / "tracked", tmp_path / "out", ["clip"], ["easy"], model=model, background="black")
    assert result.ok
    lens = resized_K(K, stored, (size, size)) if has_lens else None
    expected = intrinsics(size, size)
    if lens is not None:  # the principal point of a view is in the middle
        expected[0, 0], expected[1, 1] = lens[0, 0], lens[1, 1]
    assert str(expected.tolist()) in model.calls
    beside = json.loads(sidecar_path(tmp_path / "out", "easy", "clip").read_text())
    view = result.views[0]
    cameras = View.of(view.label, view.sampler, view.params).cameras(opened.viewmats[0], 1, size, K=lens)
    assert torch.equal(torch.tensor(beside["K"]), expected)
    assert torch.equal(torch.tensor(beside["viewmats"]), cameras.viewmats[0])
    assert -90 <= beside["elevation"] <= 90
    (row,) = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert torch.equal(torch.tensor(row["K"]).view(3, 3), expected)
    assert torch.equal(torch.tensor(row["viewmat"]).view(4, 4), cameras.viewmats[0])
    assert (row["azimuth"], row["elevation"]) == (beside["azimuth"], beside["elevation"])
    assert row["cameras"] is None
