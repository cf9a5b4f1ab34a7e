"""The rasteriser with gradients against the readable one, and that one against finite differences."""

import numba
import pytest
import torch

from guava_aug.render.rasterize import rasterize
from guava_aug.render.rasterize_grad import rasterize_grad, rasterize_reference, tile_lists
from guava_aug.render.rasterize_torch import project
from guava_aug.views.cameras import intrinsics

WIDTH, HEIGHT = 40, 24


def _scene(splats=60, channels=16, people=2, views=2, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    r = lambda *s: torch.randn(*s, generator=g, dtype=dtype)
    means = r(people, views, splats, 3) * torch.tensor([1.0, 0.6, 0.5], dtype=dtype)
    means = means + torch.tensor([0.0, 0, 4], dtype=dtype)
    means[0, 0, :1, 2] = -1.0  # behind the camera
    quats = torch.nn.functional.normalize(r(people, views, splats, 4), dim=-1)
    scales = torch.rand(people, views, splats, 3, generator=g, dtype=dtype) * 0.2 + 0.02
    opacities = torch.rand(people, splats, generator=g, dtype=dtype)
    opacities[:, :8] = 0.999  # alpha is capped, and tiles end early
    viewmats = torch.eye(4, dtype=dtype).repeat(people, views, 1, 1)
    viewmats[:, 1:, 0, 3] = 0.3
    K = intrinsics(WIDTH, HEIGHT, 0.5).to(dtype)
    return means, quats, scales, opacities, r(people, splats, channels), viewmats, K


def test_lists_hold_every_pair_that_is_seen_nearest_first():
    means, quats, scales, opacities, _, viewmats, K = (x[0] if x.ndim > 2 else x for x in _scene())
    p = [project(means[i], quats[i], scales[i], opacities[0], viewmats[i], K, WIDTH, HEIGHT, False) for i in range(2)]
    splats = torch.stack([torch.cat([s.centers, s.conics, s.opacities[:, None]], 1) for s in p])
    boxes = torch.stack([torch.cat([s.tile_min, s.tile_max], 1).int() for s in p])
    lists = tile_lists(splats, boxes, torch.stack([s.depths for s in p]), WIDTH, HEIGHT)
    columns, rows, N = 3, 2, splats.shape[1]
    assert len(lists.starts) == 2 * rows * columns + 1
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    fewer = 0
    for tile in range(2 * rows * columns):
        i, row, column = tile // (rows * columns), tile // columns % rows, tile % columns
        at = torch.tensor([column, row])
        inside = ((p[i].tile_min <= at) & (at < p[i].tile_max)).all(-1)
        d = p[i].centers[:, None] - torch.stack([column * 16 + x, row * 16 + y], -1).reshape(1, -1, 2)
        xx, xy, yy = p[i].conics[:, :, None].unbind(1)
        power = 0.5 * (xx * d[..., 0] ** 2 + yy * d[..., 1] ** 2) + xy * d[..., 0] * d[..., 1]
        peak = (p[i].opacities[:, None] * torch.exp(-power)).amax(1)
        found = lists.order[lists.starts[tile] : lists.starts[tile + 1]] - i * N
        ids = set(found.tolist())
        assert set(torch.nonzero(inside & (peak >= 1 / 255))[:, 0].tolist()) <= ids
        assert ids <= set(torch.nonzero(inside)[:, 0].tolist()) and len(ids) == len(found)
        fewer += int(inside.sum()) - len(ids)
        assert (p[i].depths[found].diff() >= 0).all()
    assert fewer > 0.1 * len(lists.order)


def test_reference_gradients_are_right():
    *tensors, viewmats, K = _scene(splats=4, channels=2, people=1, views=1, dtype=torch.float64, seed=3)
    tensors[0][0, 0, 0, 2] = 4.0
    tensors[3][:] = torch.tensor([0.3, 0.5, 0.4, 0.6])  # clear of every threshold
    tensors = [t.requires_grad_() for t in tensors]
    weights = torch.randn(1, 1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def loss(*args):
        drawn = rasterize_reference(*args, viewmats, K, WIDTH, HEIGHT)
        # only bright pixels: finite differences would step over the 1/255 rule of the dim ones
        solid = (drawn.alpha.detach() > 0.1).to(torch.float64)
        return (torch.cat([drawn.image, drawn.alpha], 2) * weights * solid).sum()

    auto = torch.autograd.grad(loss(*tensors), tensors)
    step = 1e-7
    for tensor, gradient in zip(tensors, auto, strict=True):
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        with torch.no_grad():
            moved = [
                loss(*(t + sign * step * direction if t is tensor else t for t in tensors)) for sign in (1.0, -1.0)
            ]
        slope = (moved[0] - moved[1]) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=0.02, atol=1e-3)


NAMES = ("means", "quats", "scales", "opacities", "features", "viewmats", "K", "background")


def _turned_scene(splats, channels):
    """One person in two views, the second turned: the arguments of `rasterize`, the background last."""
    means, quats, scales, opacities, features, viewmats, K = _scene(splats, channels, people=1)
    viewmats[:, :, :3, :3] = torch.linalg.qr(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(7)))[0]
    viewmats[:, :, 2, 3], viewmats[0, 0] = 4.0, torch.eye(4)
    means[0, 1] -= torch.tensor([0.0, 0, 4])
    background = torch.rand(channels, generator=torch.Generator().manual_seed(6))
    return means[0], quats[0], scales[0], opacities[0], features[0], viewmats[0], K, background


def _slopes(inputs, backend, antialias=False):
    """Return the planes of a picture, radii, and slopes of all planes together to all inputs."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    raster = rasterize(*inputs[:-1], WIDTH, HEIGHT, background=inputs[-1], antialias=antialias, scale_modifier=0.9,
                       backend=backend)  # fmt: skip
    planes = torch.cat([raster.image, raster.alpha, raster.inverse_depth], 1)
    weights = torch.randn(planes.shape, generator=torch.Generator().manual_seed(8))
    slopes = torch.autograd.grad((planes * weights).sum(), inputs, allow_unused=True, materialize_grads=True)
    return planes.detach(), raster.radii, slopes


@pytest.mark.parametrize(("splats", "channels", "antialias"), [(1, 3, False), (60, 16, True), (150, 35, False)])
def test_the_cpu_kernel_is_the_reference_forward_and_backward(splats, channels, antialias):
    """Of every output with respect to every input; opaque splats reach the cap and end their tiles."""
    inputs = _turned_scene(splats, channels)
    ref, radii, slopes = _slopes(inputs, "torch", antialias)
    ours, our_radii, our_slopes = _slopes(inputs, "numba", antialias)
    assert torch.equal(radii, our_radii)
    assert (ref - ours).abs().max() <= 1e-5 * ref.abs().max()
    for name, a, b in zip(NAMES, slopes, our_slopes, strict=True):
        assert (a - b).norm() <= 1e-4 * a.norm(), name
    chosen = _slopes(inputs, "auto", antialias)
    assert all(torch.equal(a, b) for a, b in zip(chosen[2], our_slopes, strict=True))


def test_the_cpu_kernel_draws_several_people_through_lenses_of_their_own():
    *tensors, viewmats, K = _scene()
    lenses = torch.stack([K, K * torch.tensor([[1.5, 1, 0.9], [1, 1.2, 1.1], [1, 1, 1]])]).expand(2, 2, 3, 3)
    weights, found = torch.randn(2, 2, 17, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(9)), []
    for draw in (rasterize_reference, rasterize_grad):
        leaves = [x.clone().requires_grad_() for x in (*tensors, viewmats, lenses)]
        drawn = draw(*leaves, WIDTH, HEIGHT)
        planes = torch.cat([drawn.image, drawn.alpha], 2)
        found.append((planes.detach(), torch.autograd.grad((planes * weights).sum(), leaves)))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=1e-5)
    for name, a, b in zip(NAMES[:-1], found[0][1], found[1][1], strict=True):
        assert (a - b).norm() <= 1e-4 * a.norm(), name


@pytest.mark.parametrize("what", ["nobody", "far", "behind", "faint", "opaque", "line"])
def test_the_cpu_kernel_has_finite_slopes_for(what):
    """Scenes of which nothing is seen, or all is at a limit: the reference's slopes, zero where nothing is drawn."""
    inputs = list(_turned_scene(0 if what == "nobody" else 12, 3))
    if what == "far":
        inputs[0][..., :2] += 1e5
    if what == "behind":
        inputs[0], inputs[5] = inputs[0] - torch.tensor([0, 0, 50.0]), torch.eye(4).repeat(2, 1, 1)
    if what == "faint":
        inputs[3][:] = 1e-3
    if what == "opaque":  # alpha is at its cap over whole tiles: what is behind is not drawn at all
        inputs[2], inputs[3] = inputs[2] + 2.0, torch.full_like(inputs[3], 50.0)
    if what == "line":
        inputs[2] = inputs[2] * torch.tensor([1.0, 1e-6, 1e-6])
    planes, _, slopes = _slopes(inputs, "numba")
    ref, _, ref_slopes = _slopes(inputs, "torch")
    torch.testing.assert_close(planes, ref, atol=1e-4, rtol=1e-4)
    for name, a, b in zip(NAMES, ref_slopes, slopes, strict=True):
        assert torch.isfinite(b).all() and b.shape == a.shape, name
        assert (a - b).norm() <= 1e-3 * a.norm() + 1e-6, name
        if what in ("nobody", "far", "behind", "faint") and name != "background":
            assert not b.any(), name


def test_only_what_is_asked_for_has_slopes():
    inputs = _turned_scene(60, 3)
    whole = _slopes(inputs, "numba")[2]
    means = inputs[0].clone().requires_grad_()
    raster = rasterize(means, *inputs[1:-1], WIDTH, HEIGHT, background=inputs[-1], scale_modifier=0.9)
    planes = torch.cat([raster.image, raster.alpha, raster.inverse_depth], 1)
    weights = torch.randn(planes.shape, generator=torch.Generator().manual_seed(8))
    assert torch.equal(torch.autograd.grad((planes * weights).sum(), means)[0], whole[0])


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")
def test_slopes_do_not_depend_on_the_number_of_threads():
    inputs, before, found = _turned_scene(3000, 5), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(_slopes(inputs, "numba")[2])
    finally:
        torch.set_num_threads(before)
    for name, a, b in zip(NAMES, *found, strict=True):
        if name != "background":  # of plain torch
            assert torch.equal(a, b), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("channels", [3, 16, 35])
def test_the_door_has_gradients_on_a_gpu(antialias, channels):
    """Of every output with respect to every input, the lens, the camera and the background among them."""
    means, quats, scales, opacities, features, viewmats, K = _scene(400, channels, people=1)
    viewmats[:, :, :3, :3] = torch.linalg.qr(torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(7)))[0]
    viewmats[:, :, 2, 3], viewmats[0, 0] = 4.0, torch.eye(4)
    means[0, 1] -= torch.tensor([0.0, 0, 4])
    background = torch.rand(channels)
    inputs = [x.cuda().requires_grad_() for x in
              (means[0], quats[0], scales[0], opacities[0], features[0], viewmats[0], K)]  # fmt: skip
    inputs.append(background.cuda().requires_grad_())
    weights = torch.randn(2, channels + 2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(8)).cuda()
    found = {}
    for backend in ("torch", "triton"):
        raster = rasterize(*inputs[:-1], WIDTH, HEIGHT, background=inputs[-1], antialias=antialias, scale_modifier=0.9,
                           backend=backend)  # fmt: skip
        planes = torch.cat([raster.image, raster.alpha, raster.inverse_depth], 1)
        found[backend] = (planes, raster.radii, torch.autograd.grad((planes * weights).sum(), inputs))
    (ref, radii, slopes), (ours, our_radii, our_slopes) = found["torch"], found["triton"]
    assert (radii != our_radii).float().mean() < 0.01
    assert ((ref - ours).abs() > 1e-3 * ref.abs().max()).float().mean() < 1e-3
    for name, a, b in zip(
        ("means", "quats", "scales", "opacities", "features", "viewmats", "K", "background"), slopes, our_slopes,
        strict=True,
    ):  # fmt: skip
        assert (a - b).norm() <= 1e-2 * a.norm(), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("splats", "channels"), [(1, 32), (60, 16), (3000, 32)])
def test_kernel_is_the_reference_forward_and_backward(splats, channels):
    *tensors, viewmats, K = _scene(splats, channels)
    tensors = [t.cuda().requires_grad_() for t in tensors]
    viewmats = viewmats.cuda()
    lenses = torch.stack([K, K * torch.tensor([[1.5, 1, 0.9], [1, 1.2, 1.1], [1, 1, 1]])]).expand(2, 2, 3, 3)
    ref = rasterize_reference(*tensors, viewmats, lenses.cuda(), WIDTH, HEIGHT)
    ours = rasterize_grad(*tensors, viewmats, lenses, WIDTH, HEIGHT)
    torch.testing.assert_close(ours.image, ref.image, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(ours.alpha, ref.alpha, atol=1e-4, rtol=1e-4)
    weights = torch.randn_like(ref.image)
    for name, a, b in zip(
        ("means", "quats", "scales", "opacities", "features"),
        torch.autograd.grad((ref.image * weights).sum() + ref.alpha.sum(), tensors),
        torch.autograd.grad((ours.image * weights).sum() + ours.alpha.sum(), tensors),
        strict=True,
    ):
        # thresholds may fall the other way for a few (splat, pixel) pairs: the error as a whole must be small
        assert (a - b).norm() <= 1e-3 * a.norm(), name
