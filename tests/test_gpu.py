"""The same pictures on a GPU as on the CPU. `make test-gpu`; skipped without one."""

from dataclasses import replace

import pytest
import torch

from fakes import write_clip
from guava_aug import augment
from guava_aug.avatar import StyleUNet, StyleUNetConfig
from guava_aug.body import Motion
from guava_aug.demo import demo_root
from guava_aug.model import load_model
from guava_aug.render.background import background_for
from guava_aug.tracked import TrackedVideo, list_videos
from guava_aug.views import plan_views
from tiny_model import SIZE, write_tiny_model

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _float32():
    """Full float32 products, so that only the order of operations differs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before)
    torch.backends.cudnn.allow_tf32 = True


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return load_model(path, "cpu"), load_model(path, "cuda")


@pytest.fixture(scope="module")
def video():
    return TrackedVideo.open(demo_root(), list_videos(demo_root())[0])


def test_stages_agree(models, video):
    cpu, gpu = models
    source = video.source_at(cpu.config.feature_img_size)
    raw_cpu, raw_gpu = cpu.infer(source), gpu.infer(source)
    close = lambda a, b, atol: torch.testing.assert_close(a.cpu(), b, atol=atol, rtol=1e-3)
    close(raw_gpu.uv_features, raw_cpu.uv_features, 2e-3)
    # the later stages from the same avatar, so that a point on the opacity threshold cannot shift the rows
    avatar = cpu.avatar(raw_cpu, source.identity)
    on_gpu = replace(
        avatar,
        body=gpu.body,
        rest=gpu.body.shape(source.identity.to("cuda")),
        **{k: v.cuda() for k, v in vars(avatar).items() if isinstance(v, torch.Tensor)},
    )
    motion = video.motion[:3]
    a, b = avatar.pose(motion), on_gpu.pose(motion.to("cuda"))
    close(b.means, a.means, 1e-5)
    close(b.quats, a.quats, 1e-4)
    close(b.scales, a.scales, 1e-6)
    cameras = plan_views(video.name, ["hard"])[0].cameras(source.viewmat, 3, SIZE)
    x, y = cpu.rasterize(a, cameras), gpu.rasterize(b, cameras)
    wrong = (y.image.cpu() - x.image).abs() > 1e-3 * x.image.abs().max()
    assert wrong.float().mean() < 1e-3  # single splats on a decision
    close(gpu.refine(x.image.cuda()), cpu.refine(x.image), 1e-3)


def test_refiner_at_official_size():
    torch.manual_seed(0)
    refiner = StyleUNet(StyleUNetConfig()).eval().requires_grad_(False)
    noise = [torch.randn(1, 1, s, s) for s in refiner.noise_sizes]
    x = torch.randn(2, 32, 512, 512)
    expected = torch.sigmoid(refiner(x[:1], noise))
    refiner, noise = refiner.cuda(), [n.cuda() for n in noise]
    found = torch.sigmoid(refiner(x.cuda(), noise))[:1].cpu()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_whole_run(models, tmp_path):
    write_clip(tmp_path / "tracked", "clip", frames=5)
    result = augment(tmp_path / "tracked", tmp_path / "out", difficulties=["easy"], model=models[1])
    assert result.count() == {"success": 1}


def test_background_and_batches(models, video):
    """A frame is the same alone and in a batch."""
    gpu = models[1]
    source = video.source_at(gpu.config.feature_img_size)
    avatar = gpu.reconstruct(source)
    chunk = next(iter(video.chunks(4, SIZE)))
    plate = background_for(video, "plate", SIZE).frames(chunk)
    cameras = plan_views(video.name, ["easy"])[0].cameras(source.viewmat, 4, SIZE)
    motion = Motion.to(chunk.motion, "cuda")
    together = gpu.render(avatar.pose(motion), cameras, plate)
    for t in range(4):
        alone = gpu.render(
            avatar.pose(motion[t : t + 1]), cameras[t : t + 1], plate[t : t + 1] if len(plate) > 1 else plate
        )
        assert (alone[0] - together[t]).abs().max() <= 1 / 255
