"""Tracked frames as training material, against the inference reader on a bundled clip."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.training.data import encoder_image, source_picture
from guava_aug.apps.training.from_tracked import video_views
from guava_aug.avatar.visibility import rasterize_mesh
from guava_aug.tracked import TrackedVideo

_CLIPS = Path(default_body_path()).parent / "clips"


@pytest.fixture(scope="module")
def video() -> TrackedVideo:
    return TrackedVideo.open(_CLIPS, "signer_a")


@pytest.fixture(scope="module")
def views(video, body):
    return video_views(video, body, 3)


def test_source_frame_is_what_inference_reads(video, views):
    ours = encoder_image(source_picture(views.images[0].float() / 255), 280)
    theirs = video.source_at(280).image
    assert (ours - theirs).abs().mean() < 0.01  # soft edges are multiplied by the mask twice here
    assert (ours - theirs).abs().amax() < 0.3


def test_geometry_is_that_of_the_body_and_camera(video, views, body):
    last = video.num_frames - 1
    posed = body(video.identity, video.motion[last : last + 1])
    torch.testing.assert_close(views.vertices[-1], posed.vertices[0])
    assert torch.equal(views.viewmats[-1], video.viewmats[last])
    assert views.tracked.all() and len(views.images) == 3
    camera = posed.vertices[0] @ video.viewmats[last][:3, :3].T + video.viewmats[last][:3, 3]
    points = torch.cat([camera[:, :2] * 24 / camera[:, 2:], camera[:, 2:]], 1)
    owner = rasterize_mesh(points.numpy(), body.assets.faces.numpy(), 512)[0]
    assert views.seen[-1].sum() == len(set(owner[owner >= 0].tolist()))


def test_head_box_lies_on_the_person(views):
    left, top, right, bottom = ((views.boxes[0, 0] + 1) * 256).long().tolist()
    assert left < right and top < bottom
    assert (views.images[0, 3, top:bottom, left:right] > 127).float().mean() > 0.3


def test_a_clip_with_a_lens_of_its_own_is_seen_through_it(video, body):
    S = video.image_size
    K = torch.tensor([[1.2 * S, 0, 0.55 * S], [0, 1.2 * S, 0.5 * S], [0, 0, 1]])
    near = video.viewmats.clone()
    near[:, 2, 3] *= 2.4 / 24  # as large in the picture
    views = video_views(replace(video, K=K, viewmats=near), body, 2)
    lens = torch.tensor([2.4, 2.4, 0.1 + 1 / S, 1 / S]).repeat(2, 1)
    torch.testing.assert_close(views.lenses, lens, atol=1e-5, rtol=0)
    assert views.seen.any(1).all() and torch.isfinite(views.depth.float()).flatten(1).any(1).all()
