"""The rasteriser's closed forms, its invariances, and what it says to a wrong call; every backend."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guava_aug.avatar.model import load_model
from guava_aug.errors import DeviceError, InputError, UsageError
from guava_aug.render.rasterize import Raster, rasterize, resolve_backend
from guava_aug.views.cameras import intrinsics

BACKENDS = ["torch", "numba"]
backends = pytest.mark.parametrize("backend", BACKENDS)
SIZE = 33  # odd: pixel 16 is the principal point
CENTER = SIZE // 2
TANFOV = 0.5
DEPTH = 4.0


def scene(depths: list[float], opacities: list[float], features: Tensor, sigma: float = 0.2) -> dict[str, Any]:
    """Round splats on the optical axis of a camera at the origin."""
    n = len(depths)
    means = torch.zeros(1, n, 3)
    means[0, :, 2] = torch.tensor(depths)
    return {
        "means": means,
        "quats": torch.tensor([1.0, 0, 0, 0]).expand(1, n, 4).clone(),
        "scales": torch.full((1, n, 3), sigma),
        "opacities": torch.tensor(opacities),
        "features": features,
        "viewmats": torch.eye(4)[None],
        "K": intrinsics(SIZE, SIZE, TANFOV),
        "width": SIZE,
        "height": SIZE,
    }


def cloud(n: int = 60, channels: int = 3, seed: int = 0, frames: int = 1) -> dict[str, Any]:
    """Random anisotropic splats around the optical axis."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(frames, n, 3, generator=g) * 0.8 + torch.tensor([0.0, 0.0, 5.0])
    quats = torch.nn.functional.normalize(torch.randn(frames, n, 4, generator=g), dim=-1)
    return {
        "means": means,
        "quats": quats,
        "scales": torch.rand(frames, n, 3, generator=g) * 0.2 + 0.02,
        "opacities": torch.rand(n, generator=g),
        "features": torch.randn(n, channels, generator=g),
        "viewmats": torch.eye(4).repeat(frames, 1, 1),
        "K": intrinsics(SIZE, SIZE, TANFOV),
        "width": SIZE,
        "height": SIZE,
    }


def equal(a: Raster, b: Raster) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(
            (a.image, a.alpha, a.inverse_depth, a.radii), (b.image, b.alpha, b.inverse_depth, b.radii), strict=True
        )
    )


# ------------------------------------------------------------------------------------------------------- closed forms


@backends
@pytest.mark.parametrize("opacity", [0.01, 0.3, 0.99, 1.0])
def test_single_splat_centre_is_its_opacity_up_to_099(backend: Any, opacity: float) -> None:
    feature = torch.tensor([[0.5, -2.0, 3.0]])
    raster = rasterize(**scene([DEPTH], [opacity], feature), backend=backend)
    expected = min(0.99, opacity)
    assert torch.allclose(raster.image[0, :, CENTER, CENTER], expected * feature[0], atol=1e-6)
    assert raster.alpha[0, 0, CENTER, CENTER].item() == pytest.approx(expected, abs=1e-6)
    assert raster.inverse_depth[0, 0, CENTER, CENTER].item() == pytest.approx(expected / DEPTH, abs=1e-6)
    assert raster.depth[0, 0, CENTER, CENTER].item() == pytest.approx(DEPTH, rel=1e-5)
    assert raster.image.shape == (1, 3, SIZE, SIZE)
    assert raster.alpha.shape == raster.inverse_depth.shape == raster.depth.shape == (1, 1, SIZE, SIZE)
    assert raster.radii.shape == (1, 1) and raster.radii.dtype == torch.int32


@backends
def test_falloff_is_a_gaussian_widened_by_the_low_pass(backend: Any) -> None:
    opacity, sigma = 0.8, 0.15
    raster = rasterize(**scene([DEPTH], [opacity], torch.ones(1, 1), sigma), backend=backend)
    pixels = SIZE / (2 * TANFOV) * sigma / DEPTH
    variance = pixels**2 + 0.3
    offset = torch.arange(SIZE, dtype=torch.float64) - CENTER
    expected = opacity * torch.exp(-(offset**2) / (2 * variance))
    expected[expected < 1 / 255] = 0
    assert torch.allclose(raster.alpha[0, 0, CENTER].double(), expected, atol=1e-6)
    assert torch.allclose(raster.alpha[0, 0, :, CENTER].double(), expected, atol=1e-6)
    assert raster.radii.item() == math.ceil(3 * math.sqrt(variance + math.sqrt(0.1)))
    assert torch.isinf(raster.depth[raster.alpha == 0]).all() and (raster.alpha == 0).any()


@backends
def test_nearer_splat_hides_whatever_the_order_in_memory(backend: Any) -> None:
    features, a, b = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0.6, 0.7
    first_near = rasterize(**scene([2.0, 3.0], [a, b], features), backend=backend)
    second_near = rasterize(**scene([3.0, 2.0], [a, b], features), backend=backend)
    assert torch.allclose(first_near.image[0, :, CENTER, CENTER], torch.tensor([a, (1 - a) * b]), atol=1e-6)
    assert torch.allclose(second_near.image[0, :, CENTER, CENTER], torch.tensor([(1 - b) * a, b]), atol=1e-6)


@backends
def test_equal_depths_are_drawn_in_order_of_index(backend: Any) -> None:
    a, b = 0.6, 0.7
    raster = rasterize(**scene([2.0, 2.0], [a, b], torch.eye(2)), backend=backend)
    assert torch.allclose(raster.image[0, :, CENTER, CENTER], torch.tensor([a, (1 - a) * b]), atol=1e-6)


@backends
def test_alpha_is_one_minus_the_product_of_what_passes(backend: Any) -> None:
    opacities = [0.2, 0.5, 0.1, 0.3]
    raster = rasterize(**scene([2.0, 2.5, 3.0, 3.5], opacities, torch.ones(4, 1)), backend=backend)
    expected = 1 - math.prod(1 - o for o in opacities)
    assert raster.alpha[0, 0, CENTER, CENTER].item() == pytest.approx(expected, abs=1e-6)
    # features of one give alpha, everywhere
    assert torch.allclose(raster.image, raster.alpha, atol=1e-6)


@backends
def test_the_splat_that_would_close_a_pixel_is_not_drawn(backend: Any) -> None:
    # 0.05^3 = 1.25e-4 is left after three; the fourth would leave 6e-6 < 1e-4.
    raster = rasterize(**scene([2.0, 2.5, 3.0, 3.5, 4.0], [0.95] * 4 + [0.01], torch.eye(5)), backend=backend)
    expected = torch.tensor([0.95, 0.95 * 0.05, 0.95 * 0.05**2, 0.0, 0.0])
    assert torch.allclose(raster.image[0, :, CENTER, CENTER], expected, atol=1e-6)
    assert raster.alpha[0, 0, CENTER, CENTER].item() == pytest.approx(1 - 0.05**3, abs=1e-6)


@backends
def test_alpha_under_one_255th_counts_as_nothing(backend: Any) -> None:
    raster = rasterize(**scene([2.0, 2.0], [0.9 / 255, 0.0], torch.ones(2, 1)), backend=backend)
    assert (raster.alpha == 0).all() and (raster.image == 0).all()
    assert (raster.radii > 0).all()


@backends
def test_behind_or_nearer_than_the_near_plane_is_culled(backend: Any) -> None:
    raster = rasterize(**scene([-3.0, 0.2, 0.21], [0.5] * 3, torch.eye(3), sigma=0.01), backend=backend)
    assert raster.radii[0].tolist()[:2] == [0, 0] and raster.radii[0, 2] > 0
    assert (raster.image[0, :2] == 0).all() and (raster.image[0, 2] > 0).any()


@backends
def test_background_shows_through_what_is_left(backend: Any) -> None:
    inputs, background = cloud(), torch.tensor([0.3, -1.0, 2.0])
    without = rasterize(**inputs, backend=backend)
    over = rasterize(**inputs, background=background, backend=backend)
    expected = without.image + (1 - without.alpha) * background[None, :, None, None]
    assert torch.allclose(over.image, expected, atol=1e-6)
    assert torch.equal(over.alpha, without.alpha) and torch.equal(over.inverse_depth, without.inverse_depth)


@backends
def test_scale_modifier_is_a_factor_on_the_scales(backend: Any) -> None:
    inputs = cloud()
    modified = rasterize(**inputs, scale_modifier=0.5, backend=backend)
    scaled = rasterize(**(inputs | {"scales": inputs["scales"] * 0.5}), backend=backend)
    assert equal(modified, scaled)


@backends
def test_antialias_keeps_the_light_of_a_thin_splat(backend: Any) -> None:
    """A splat far thinner than a pixel loses det^(1/2): opacity times area stays what it was before the low-pass."""
    opacity, sigma = 1.0, 0.02
    raster = rasterize(**scene([DEPTH], [opacity], torch.ones(1, 1), sigma), antialias=True, backend=backend)
    variance = (SIZE / (2 * TANFOV) * sigma / DEPTH) ** 2
    expected = opacity * variance / (variance + 0.3)
    assert raster.alpha[0, 0, CENTER, CENTER].item() == pytest.approx(expected, rel=1e-4)


@backends
def test_no_gaussians_is_the_background(backend: Any) -> None:
    background = torch.tensor([0.25, 0.5])
    raster = rasterize(
        **scene([], [], torch.zeros(0, 2)) | {"width": 20, "height": 5, "K": intrinsics(20, 5)},
        background=background, backend=backend,
    )  # fmt: skip
    assert torch.equal(raster.image, background[None, :, None, None].expand(1, 2, 5, 20))
    assert (raster.alpha == 0).all() and (raster.inverse_depth == 0).all() and raster.radii.shape == (1, 0)


@backends
def test_no_frames_is_an_empty_batch(backend: Any) -> None:
    raster = rasterize(**cloud(frames=0), backend=backend)
    assert raster.image.shape == (0, 3, SIZE, SIZE) and raster.radii.shape == (0, 60)


# ------------------------------------------------------------------------------------------------------- invariances


@backends
def test_every_frame_is_drawn_as_if_alone(backend: Any) -> None:
    inputs = cloud(frames=3)
    inputs["viewmats"][1, 0, 3] = 0.3
    together = rasterize(**inputs, backend=backend)
    for t in range(3):
        alone = rasterize(
            **(inputs | {name: inputs[name][t : t + 1] for name in ("means", "quats", "scales", "viewmats")}),
            backend=backend,
        )
        assert torch.equal(together.image[t], alone.image[0]) and torch.equal(together.radii[t], alone.radii[0])
        assert torch.equal(together.alpha[t], alone.alpha[0])


@backends
def test_order_in_memory_does_not_matter(backend: Any) -> None:
    inputs = cloud(seed=3)
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    moved = dict(inputs)
    for name in ("means", "quats", "scales"):
        moved[name] = inputs[name][:, shuffled]
    for name in ("opacities", "features"):
        moved[name] = inputs[name][shuffled]
    a, b = rasterize(**inputs, backend=backend), rasterize(**moved, backend=backend)
    assert torch.allclose(a.image, b.image, atol=1e-6)
    assert torch.equal(a.radii[:, shuffled], b.radii)


@backends
def test_quaternion_and_its_negative_are_the_same_rotation(backend: Any) -> None:
    inputs = cloud(seed=4)
    assert equal(
        rasterize(**inputs, backend=backend), rasterize(**(inputs | {"quats": -inputs["quats"]}), backend=backend)
    )


@backends
def test_moving_world_and_camera_together_changes_nothing(backend: Any) -> None:
    inputs = cloud(seed=5)
    angle = 0.7
    turn = torch.eye(4)
    turn[0, 0] = turn[2, 2] = math.cos(angle)
    turn[0, 2], turn[2, 0] = math.sin(angle), -math.sin(angle)
    turn[:3, 3] = torch.tensor([0.4, -1.0, 2.0])
    w, x, y, z = inputs["quats"].unbind(-1)
    c, s = math.cos(angle / 2), math.sin(angle / 2)  # (c, 0, s, 0) * q
    moved = inputs | {
        "means": inputs["means"] @ turn[:3, :3].T + turn[:3, 3],
        "quats": torch.stack([c * w - s * y, c * x + s * z, c * y + s * w, c * z - s * x], dim=-1),
        "viewmats": torch.linalg.inv(turn)[None],
    }
    a, b = rasterize(**inputs, backend=backend), rasterize(**moved, backend=backend)
    # another rounding may carry a pixel over a threshold; none may move by more than a threshold's worth
    close = (a.image - b.image).abs().amax(dim=1) <= 1e-4
    assert close.float().mean() >= 0.998
    assert (a.image - b.image).abs().max() <= 0.02 * inputs["features"].abs().max()


@backends
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), gain=st.floats(-3, 3, width=32))
def test_the_picture_is_linear_in_the_features(backend: Any, seed: int, gain: float) -> None:
    inputs = cloud(seed=seed)
    other = torch.randn(60, 3, generator=torch.Generator().manual_seed(seed + 1))
    a = rasterize(**inputs, backend=backend).image
    b = rasterize(**(inputs | {"features": other}), backend=backend).image
    mixed = rasterize(**(inputs | {"features": inputs["features"] + gain * other}), backend=backend).image
    assert torch.allclose(mixed, a + gain * b, atol=2e-5)


@backends
def test_a_channel_does_not_depend_on_its_neighbours(backend: Any) -> None:
    inputs = cloud(channels=35)
    whole = rasterize(**inputs, backend=backend)
    part = rasterize(**(inputs | {"features": inputs["features"][:, 30:31]}), backend=backend)
    assert torch.allclose(whole.image[:, 30:31], part.image, atol=1e-6)
    assert torch.equal(whole.alpha, part.alpha)


def test_gradients_of_the_reference() -> None:
    inputs = cloud(n=12, seed=2)
    leaves = {name: inputs[name].clone().requires_grad_() for name in ("means", "opacities", "features")}
    raster = rasterize(**(inputs | leaves), backend="torch")
    raster.image.sum().backward()
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves.values())
    # the sum over channels has the same slope in each of them, and all slopes together are the covered area
    slope = leaves["features"].grad
    assert torch.allclose(slope, slope[:, :1].expand(-1, 3))
    assert slope[:, 0].sum().item() == pytest.approx(raster.alpha.sum().item(), rel=1e-4)


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"means": torch.zeros(3, 3)}, "means"),
        ({"quats": torch.zeros(1, 60, 3)}, "quats"),
        ({"scales": torch.zeros(2, 60, 3)}, "scales"),
        ({"opacities": torch.zeros(60, 1)}, "opacities"),
        ({"features": torch.zeros(60)}, "features"),
        ({"features": torch.zeros(60, 0)}, "features"),
        ({"viewmats": torch.eye(4)}, "viewmats"),
        ({"K": torch.eye(4)}, "K"),
        ({"K": torch.tensor([[1.0, 0.1, 0], [0, 1, 0], [0, 0, 1]])}, "skew"),
        ({"background": torch.zeros(4)}, "background"),
        ({"features": torch.zeros(60, 3, dtype=torch.int64)}, "floating"),
        ({"width": 0}, "width"),
        ({"height": 2.5}, "height"),
        ({"scale_modifier": math.nan}, "scale_modifier"),
        ({"backend": "cuda"}, "backend"),
    ],
)
def test_a_call_that_makes_no_sense_is_named(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        rasterize(**(cloud() | change))


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "features", "viewmats"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_named_with_its_place(name: str, value: float) -> None:
    inputs = cloud()
    inputs[name].view(-1)[7] = value
    with pytest.raises(InputError, match=rf"1 of \d+ values of {name} .* first at \["):
        rasterize(**inputs)


def test_finite_numbers_whose_sum_overflows_are_accepted() -> None:
    inputs = cloud()
    inputs["features"] = torch.full((60, 3), 3e38)
    assert rasterize(**inputs).image.shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize(("backend", "device"), [("numba", "cuda:1"), ("triton", "cpu")])
def test_a_backend_of_another_device_is_refused_before_a_model_is_read(backend: str, device: str) -> None:
    with pytest.raises(DeviceError, match=f"backend '{backend}' .*use 'auto'"):
        load_model("nowhere", device, backend=backend)


def test_tensors_of_several_devices_are_refused() -> None:
    with pytest.raises(DeviceError, match="move them together"):
        rasterize(**(cloud() | {"quats": torch.zeros(1, 60, 4, device="meta")}))


def test_auto_is_named() -> None:
    assert resolve_backend("auto", "cpu") == "numba"
    assert resolve_backend("auto", "cuda:1") == "torch"
    assert resolve_backend("torch", "cpu") == "torch"
