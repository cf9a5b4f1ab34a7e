"""The same pictures on a GPU as on the CPU. `make test-gpu`; skipped without one."""

from dataclasses import replace

import pytest
import torch

from fakes import write_clip
from guava_aug import augment
from guava_aug.apps.synthetic import demo_root
from guava_aug.avatar import StyleUNet, StyleUNetConfig
from guava_aug.avatar.model import load_model
from guava_aug.body import Motion
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


def test_half_precision_stays_within_the_gate():
    """The fast path against float32 on the same weights: at least 55 dB, and within 2/255 on 99.9 % of the pixels."""
    video = TrackedVideo.open(demo_root(), list_videos(demo_root())[0])
    exact, fast = (load_model(None, "cuda", precision=p) for p in ("fp32", "fp16"))
    assert fast.fast and not exact.fast
    avatar = exact.reconstruct(video.source_at(exact.config.feature_img_size))
    posed = avatar.pose(video.motion[:9].to("cuda"))
    view = plan_views(video.name, ["hard"])[0]
    cameras = view.cameras(video.viewmats[0], 9, exact.config.image_size)
    plate = torch.full((1, 3, 512, 512), 0.5, device="cuda")
    true, found = exact.render(posed, cameras, plate), fast.render(posed, cameras, plate).float()
    error = (true - found).abs()
    assert -10 * torch.log10(error.square().mean()) >= 55
    assert (error <= 2 / 255).float().mean() >= 0.999
    alone = fast.render(posed[4:5], cameras[4:5], plate)[0].float()
    assert (alone - found[4]).abs().max() <= 1 / 255


def test_half_refiner_at_official_size():
    from guava_aug.avatar.refiner_triton import HalfRefiner

    torch.manual_seed(0)
    refiner = StyleUNet(StyleUNetConfig()).eval().requires_grad_(False).cuda()
    for name, p in refiner.named_parameters():
        if name.endswith("bias") or ("style_conv" in name and name.endswith(".weight") and len(p) == 1):
            p.normal_(0, 0.1)
    noise = [torch.randn(1, 1, s, s, device="cuda") for s in refiner.noise_sizes]
    x = torch.randn(3, 32, 512, 512, device="cuda") * (torch.rand(3, 1, 512, 512, device="cuda") > 0.5)
    with torch.inference_mode():
        half = HalfRefiner(refiner, noise)
        first = torch.einsum("tchw,cd->tdhw", x, half._first) + half.first_bias[:, None, None]
        first = torch.nn.functional.leaky_relu(first, 0.2).half().contiguous(memory_format=torch.channels_last)
        found = half(first).clone()
        error = (found.float() - torch.sigmoid(refiner(x, noise))).abs()
        assert -10 * torch.log10(error.square().mean()) >= 55
        assert (error <= 2 / 255).float().mean() >= 0.999
        # from the second batch of a size on, launches are recorded and repeated, whatever the batch holds
        for picture in (first.flip(0), first):
            again = half(picture)
            assert list(half._recorded) == [3]
        assert torch.equal(again, found)
        half.canvas(3).copy_(first)  # where the rasteriser draws
        assert torch.equal(half(half.canvas(3)), found)
        one = [half(first[:1]).clone() for _ in range(3)]
        assert sorted(half._recorded) == [1, 3]
        assert torch.equal(one[1], one[0]) and torch.equal(one[2], one[0])
        assert (one[0].float() - found[:1].float()).abs().max() <= 1 / 255
        half.release()
        assert torch.equal(half(first), found) and not half._recorded and half.canvas(3) is None


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(512, 512), (80, 48), (7, 5)])
def test_triton_rasteriser_is_the_reference(size, antialias):
    from guava_aug.render.rasterize import rasterize

    g = torch.Generator().manual_seed(0)
    T, N, C = 19, 3000, 5
    r = lambda *shape: torch.rand(*shape, generator=g)
    means = (r(T, N, 3) - 0.5) * torch.tensor([0.9, 0.9, 1.0]) + torch.tensor([0.0, 0.0, 3.0])
    means[:, :10, 2] = -1.0  # behind the camera
    quats = torch.nn.functional.normalize(r(T, N, 4) - 0.5, dim=-1)
    width, height = size
    K = torch.tensor([[1.1 * width, 0, (width - 1) / 2], [0, 1.2 * width, (height - 1) / 2], [0, 0, 1.0]])
    arguments = [means, quats, 0.02 * r(T, N, 3), r(N), r(N, C) - 0.5, torch.eye(4).repeat(T, 1, 1), K]
    arguments = [a.cuda() for a in arguments]
    options = {"background": torch.ones(C, device="cuda"), "antialias": antialias, "scale_modifier": 1.1}
    first = [a[:2] if a.shape[0] == T else a for a in arguments]
    true = rasterize(*first, width, height, backend="torch", **options)
    found = rasterize(*arguments, width, height, backend="triton", **options)
    assert torch.equal(found.radii[:2], true.radii)
    for name in ("image", "alpha", "inverse_depth"):
        a, b = getattr(found, name)[:2], getattr(true, name)
        wrong = (a - b).abs() > 1e-4 * b.abs().max()
        assert wrong.float().mean() < 1e-4, name  # single splats on a threshold
    last = [a[17:] if a.shape[0] == T else a for a in arguments]
    again = rasterize(*last, width, height, backend="triton", **options)
    assert (again.image - found.image[17:]).abs().max() < 1e-5


def test_planes_are_the_picture_in_the_encoders_colours():
    import av

    from guava_aug.output.frames import to_video_bytes
    from guava_aug.output.video import _to_yuv
    from guava_aug.render.background import composite
    from guava_aug.render.finish_triton import finish

    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 96), indexing="ij")
    rgb = torch.stack([x, y, 0.5 + 0.5 * torch.sin(9 * x * y)]).repeat(3, 1, 1, 1).cuda()
    rgb = rgb.half().contiguous(memory_format=torch.channels_last)
    alpha, plate = y[None, None].repeat(3, 1, 1, 1).cuda(), torch.rand(1, 3, 1, 1).expand(1, 3, 64, 96).cuda()
    planes, broken = finish(rgb, alpha, plate)
    assert not broken.any()
    frame = _to_yuv(to_video_bytes(composite(rgb, alpha, plate))[0], 0)
    expected = torch.from_numpy(frame.to_ndarray()).int()
    assert isinstance(frame, av.VideoFrame)
    difference = (planes[0].cpu().int() - expected).abs()
    assert difference.float().mean() < 0.5
    assert difference.max() <= 3
    rgb[1, 2, 5, 7] = float("nan")
    assert finish(rgb, alpha, plate)[1].tolist() == [0, 1, 0]
