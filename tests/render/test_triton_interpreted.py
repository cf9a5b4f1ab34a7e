"""The GPU kernels without a GPU: Triton's interpreter runs them on numpy. Skipped where Triton is not installed."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

RASTERISER = """
import torch
from guava_aug.render import rasterize_torch, rasterize_triton
g = torch.Generator().manual_seed(0)
r = lambda *shape: torch.rand(*shape, generator=g)
T, N, C, W, H = 3, 200, 20, 88, 80
means = (r(T, N, 3) - 0.5) * torch.tensor([0.6, 0.4, 1.0]) + torch.tensor([0.0, 0.0, 3.0])
means[:, :5, 2] = -1.0
quats = torch.nn.functional.normalize(r(T, N, 4) - 0.5, dim=-1)
K = torch.tensor([[300.0, 0, W / 2], [0, 310.0, H / 2], [0, 0, 1]])
scales = 0.05 * r(T, N, 3)
scales[:, 10:16] = 0.4  # wider than two patches
inputs = means, quats, scales, r(N), r(N, C) - 0.5, torch.eye(4).repeat(T, 1, 1), K, r(C)
for antialias, narrow in ((False, 2**16), (True, 9), (False, 5)):  # a sort of one frame for 9 patches; with 32 bits
    options = dict(width=W, height=H, scale_modifier=1.1, antialias=antialias)
    true = rasterize_torch.rasterize_frames(*inputs, **options)
    rasterize_triton._BATCH = 2  # also more frames than one sort takes
    rasterize_triton._NARROW = narrow
    found = rasterize_triton.rasterize_frames(*inputs, **options)
    for a, b in zip(found, true):
        assert a.shape == b.shape
        assert (a - b).abs().max() < 1e-5, (a - b).abs().max()
half = rasterize_triton.draw(*inputs[:4], inputs[4][:, :16].half(), *inputs[5:7], W, H, bias=torch.full((16,), -0.1))
true = torch.nn.functional.leaky_relu(rasterize_torch.rasterize_frames(
    *inputs[:4], inputs[4][:, :16], *inputs[5:7], torch.zeros(16), width=W, height=H, scale_modifier=1, antialias=False
)[0] - 0.1, 0.2)
assert (half.image.float() - true).abs().max() < 2e-3
"""

GRADIENTS = """
import torch
from guava_aug.render import rasterize_grad_triton, rasterize_torch
g = torch.Generator().manual_seed(0)
r = lambda *shape: torch.rand(*shape, generator=g)
T, N, C, W, H = 2, 100, 5, 40, 24
means = (r(T, N, 3) - 0.5) * torch.tensor([2.0, 1.2, 1.0]) + torch.tensor([0.0, 0.0, 3.0])
means[:, :5, 2] = -1.0
quats = torch.nn.functional.normalize(r(T, N, 4) - 0.5, dim=-1)
K = torch.tensor([[40.0, 0, W / 2], [0, 42.0, H / 2], [0, 0, 1]])
inputs = means, quats, 0.02 + 0.2 * r(T, N, 3), r(N), r(N, C) - 0.5, torch.eye(4).repeat(T, 1, 1), K, r(C)
inputs = [x.requires_grad_() for x in inputs]
weights = r(T, C + 2, H, W) - 0.5
for antialias in (False, True):
    found = []
    for kernel in (False, True):
        if kernel:
            m, q, s, o, f, views, k, black = inputs
            *planes, radii = rasterize_grad_triton.rasterize_images(
                m, q, s, o[None], f[None], views, k.expand(T, 3, 3), W, H, scale_modifier=0.9, antialias=antialias
            )
            planes[0] = planes[0] + (1 - planes[1]) * black[:, None, None]
        else:
            *planes, radii = rasterize_torch.rasterize_frames(
                *inputs, width=W, height=H, scale_modifier=0.9, antialias=antialias
            )
        planes = torch.cat(planes, 1)
        found.append((planes, radii, torch.autograd.grad((planes * weights).sum(), inputs)))
    (true, true_radii, slopes), (ours, radii, our_slopes) = found
    assert torch.equal(true_radii, radii) and (true - ours).abs().max() < 1e-4, (true - ours).abs().max()
    for a, b in zip(slopes, our_slopes):
        assert (a - b).norm() < 1e-3 * a.norm(), (a - b).norm() / a.norm()
"""

REFINER = """
import torch
from guava_aug.avatar import StyleUNet, StyleUNetConfig
from guava_aug.avatar import refiner_convs
from guava_aug.avatar.refiner_triton import HalfRefiner
torch.manual_seed(0)
launch, start, rows, kinds = refiner_convs.Packed.launch, refiner_convs.start, [], set()
def noted(kernel, grid, *args, **sizes):
    names = "STYLE", "MORE", "POOL", "SKIP", "LAST", "PH", "PW"
    kinds.add((kernel.fn.__name__, *(f"{n}{int(sizes[n])}" for n in names if n in sizes)))
    start(kernel, grid, *args, **sizes)
refiner_convs.start = noted
def watched(self, *args, **kwargs):
    grid, sizes = launch(self, *args, **kwargs)
    rows.append(sizes["BH"] * sizes["BW"] // (sizes["PH"] * sizes["PW"]))
    return grid, sizes
refiner_convs.Packed.launch = watched
for size, channels in ((16, dict(channel_scale=8)), (16, dict(channel_scale=2)), (32, dict(max_channels=16))):
    config = StyleUNetConfig(in_size=size, out_size=size, in_dim=20, num_style_feat=16, num_mlp=2, **channels)
    net = StyleUNet(config).eval().requires_grad_(False)
    for name, p in net.named_parameters():
        if name.endswith("bias") or ("style_conv" in name and len(p) == 1 and p.ndim == 1):
            p.normal_(0, 0.1)
    noise = [torch.randn(1, 1, s, s) for s in net.noise_sizes]
    half, x = HalfRefiner(net, noise), torch.randn(2, 20, size, size)
    first = half.project(x.permute(0, 2, 3, 1).flatten(0, 2)).view(2, size, size, -1).permute(0, 3, 1, 2)
    first = torch.nn.functional.leaky_relu(first + half.first_bias[:, None, None], 0.2).half()
    error = (half(first).float() - torch.sigmoid(net(x, noise))).abs().max()
    assert error < 2e-3, error
    there = torch.zeros(2, size, size, 3, dtype=torch.float16)
    assert torch.equal(half._run(first, there), half(first)) and torch.equal(there.permute(0, 3, 1, 2), half(first))
# every kind of launch was among them; an edge of a picture has taps of its own
assert {("phases", "STYLE0", "MORE1"), ("phases", "STYLE0", "MORE0"), ("phases", "STYLE1", "MORE0")} <= kinds, kinds
assert {("transform", "PH2", "PW2"), ("rgb", "LAST0", "PH1", "PW2"), ("rgb", "LAST1", "PH2", "PW2")} <= kinds, kinds
assert min(rows) == 16  # of a product; Triton 3.4 takes no fewer, which the interpreter does not mind
"""

SHARED_MEMORY = """
from triton.runtime.errors import OutOfResources
from guava_aug.avatar.refiner_convs import start
asked = []
class Kernel:
    def __init__(self, most):
        self.most = most
    def __getitem__(self, grid):
        def launch(*args, num_stages, **sizes):
            asked.append((grid, args, num_stages, sizes))
            if num_stages > self.most:
                raise OutOfResources(176, 99, "shared memory")
        return launch
small, none = Kernel(1), Kernel(0)
for _ in range(2):
    start(small, (1, 2, 3), "x", num_stages=3, CIN=4)
assert asked == [((1, 2, 3), ("x",), stages, {"CIN": 4}) for stages in (3, 2, 1, 1)], asked
try:
    start(none, (1, 2, 3), num_stages=3)
except OutOfResources:
    pass
else:
    raise AssertionError("not told")
"""


# maps to the source picture differ from frame to frame: each picture has features of its own, opacities are shared
MAPS = """
import torch
from guava_aug.avatar.source_pixels import SourcePixels, SourcePlaces, face_edges
from guava_aug.render import rasterize_grad_triton
from guava_aug.render.rasterize import rasterize
g = torch.Generator().manual_seed(0)
r = lambda *shape: torch.rand(*shape, generator=g)
T, N, P, W, H = 3, 60, 40, 40, 40
means = (r(T, N, 3) - 0.5) * torch.tensor([1.6, 1.6, 1.0]) + torch.tensor([0.0, 0.0, 3.0])
quats = torch.nn.functional.normalize(r(T, N, 4) - 0.5, dim=-1)
scales, opacities = 0.02 + 0.2 * r(T, N, 3), r(N)
faces = torch.randint(0, P, (20, 3), generator=g)
xy = r(N, 2) * 2 - 1
places = SourcePlaces(xy, r(N), face_edges(xy, faces))
source = SourcePixels(places, torch.randint(0, 20, (N,), generator=g), faces, r(4, W, H))
views, K = torch.eye(4)[None].expand(T, -1, -1), torch.tensor([[40.0, 0, W / 2], [0, 42.0, H / 2], [0, 0, 1]])
by_frame = source.maps(means, views, K, W, H)
one = lambda x, t: x[t : t + 1]
true = torch.cat([
    rasterize(one(means, t), one(quats, t), one(scales, t), opacities, by_frame[t], one(views, t), K, W, H,
              backend="torch").image
    for t in range(T)
])
import guava_aug.avatar.source_pixels as module
module.rasterize_images = rasterize_grad_triton.rasterize_images  # as on a GPU
with torch.no_grad():
    found = source.draw(means, quats, scales, opacities, views, K, W, H)
assert found.shape == (T, 7, H, W), found.shape
error = (found - true).abs().max()
assert error < 1e-3 * true.abs().max(), (error, true.abs().max())
"""


@pytest.mark.parametrize(
    "program",
    [RASTERISER, GRADIENTS, REFINER, SHARED_MEMORY, MAPS],
    ids=["rasteriser", "gradients", "refiner", "shared memory", "maps"],
)
def test_kernels_agree_with_the_reference(program):
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
