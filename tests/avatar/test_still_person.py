"""What a user relies on in the model's doors."""

import torch

from guava_aug.apps.synthetic import demo_root
from guava_aug.avatar.model import load_model
from guava_aug.tracked import TrackedVideo, list_videos
from guava_aug.views import plan_views
from tiny_model import SIZE, write_tiny_model


def test_a_person_who_keeps_still_does_not_flicker(tmp_path):
    model = load_model(write_tiny_model(tmp_path / "tiny.safetensors"), "cpu")
    strengths = [
        p for name, p in model.refiner.named_parameters() if "style_conv" in name and p.ndim == 1 and len(p) == 1
    ]
    assert strengths
    for strength in strengths:
        strength.fill_(0.5)  # what the noise does would be seen
    video = TrackedVideo.open(demo_root(), list_videos(demo_root())[0])
    avatar = model.reconstruct(video.source_at(model.config.feature_img_size))
    cameras = plan_views(video.name, ["hard"])[0].cameras(video.viewmats[0], 3, SIZE)
    plate = torch.zeros(1, 3, SIZE, SIZE)
    frames = model.render(avatar.pose(video.motion[[5, 5, 5]]), cameras, plate)
    assert frames.std() > 0.01
    assert (frames - frames[:1]).abs().max() < 1e-6
    later = model.render(avatar.pose(video.motion[[9, 5]]), cameras[:2], plate)
    assert (later[1] - frames[0]).abs().max() < 1e-6
