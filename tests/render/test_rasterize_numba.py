"""The numba kernel against its torch reference: shapes and scenes that are unkind to it."""

from __future__ import annotations

import threading
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guava_aug.render import rasterize_numba, rasterize_torch
from guava_aug.render.rasterize import Raster, rasterize
from guava_aug.runtime import numba_cache
from guava_aug.views.cameras import intrinsics


def random_scene(
    n: int,
    channels: int,
    width: int,
    height: int,
    seed: int,
    *,
    size: float = 0.1,
    tanfov: float = 0.5,
    frames: int = 1,
) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    return {
        "means": normal(frames, n, 3) * torch.tensor([2 * tanfov * 3, 2 * tanfov * 3, 1.5]) + torch.tensor([0, 0, 4.0]),
        "quats": normal(frames, n, 4),
        "scales": size * torch.exp(normal(frames, n, 3)),
        "opacities": torch.rand(n, generator=g) * 1.1,
        "features": normal(n, channels),
        "viewmats": torch.eye(4).repeat(frames, 1, 1),
        "K": intrinsics(width, height, tanfov),
        "width": width,
        "height": height,
    }


def assert_same_picture(a: Raster, b: Raster, features: torch.Tensor) -> None:
    """Same splats, same order, other exp and fused sums: 1e-4, but for pixels on a threshold.

    There alpha ~ 1/255 is or is not drawn (a change of up to 2/255), or the splat that would bring the transmittance T
    under 1e-4 is or is not drawn (a weight of up to 0.99 T < 0.01). At most 0.2 % of the pixels, or two.
    """
    assert torch.equal(a.radii, b.radii)
    scale = max(1.0, float(features.abs().max())) if features.numel() else 1.0
    for x, y, unit in ((a.image, b.image, scale), (a.alpha, b.alpha, 1), (a.inverse_depth, b.inverse_depth, 5)):
        error = (x - y).abs().amax(dim=1) / unit  # [T, H, W]
        assert (error > 1e-4).sum() <= max(2, 0.002 * error.numel())
        assert error.max() <= 0.02


def both(inputs: dict[str, Any], **options: Any) -> None:
    """Asserts that both backends draw the same."""
    assert_same_picture(
        rasterize(**inputs, **options, backend="numba"),
        rasterize(**inputs, **options, backend="torch"),
        inputs["features"],
    )


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 200),
    channels=st.sampled_from([1, 2, 3, 16, 32, 35]),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.sampled_from([1e-6, 0.003, 0.05, 0.3, 3.0]),
    seed=st.integers(0, 2**20),
    antialias=st.booleans(),
)
@example(n=0, channels=1, width=16, height=16, size=0.1, seed=0, antialias=False)
@example(n=200, channels=35, width=17, height=31, size=0.3, seed=1, antialias=False)
@example(n=1, channels=32, width=1, height=1, size=3.0, seed=2, antialias=True)
def test_any_shape(n: int, channels: int, width: int, height: int, size: float, seed: int, antialias: bool) -> None:
    both(random_scene(n, channels, width, height, seed, size=size), antialias=antialias)


@pytest.mark.parametrize("ratio", [1e-3, 1e-5])
def test_splats_as_thin_as_lines_are_no_worse_than_the_reference(ratio: float) -> None:
    """Their power is the difference of huge numbers: float32 is off by 1e-3 in both backends, by nothing worse in one.

    A bound that is too tight, or overflows, would show here.
    """
    inputs = random_scene(300, 3, 96, 80, seed=5, size=0.5)
    inputs["scales"][..., 1:] = 0.5 * ratio
    tensors = [value.double() for value in inputs.values() if isinstance(value, torch.Tensor)]
    truth = rasterize_torch.rasterize_frames(
        *tensors, torch.zeros(3).double(), width=96, height=80, scale_modifier=4.0, antialias=False
    )[1]
    errors = {
        backend: (rasterize(**inputs, scale_modifier=4.0, backend=backend).alpha - truth).abs()
        for backend in ("torch", "numba")
    }
    assert errors["numba"].mean() <= 1.5 * errors["torch"].mean() + 1e-6
    assert errors["numba"].max() <= 0.02


def test_splats_of_a_thousand_images_and_far_outside() -> None:
    inputs = random_scene(40, 3, 50, 50, seed=6)
    inputs["scales"][:, :10] = 1e4
    inputs["scales"][:, 10:15] = 1e18  # overflows float32 once squared in pixels
    inputs["means"][:, 15:25, :2] *= 1e6
    inputs["means"][:, 25:30, 2] = -5
    inputs["means"][:, 30:35, 2] = 1e9
    both(inputs)


def test_equal_depths_and_repeated_splats() -> None:
    inputs = random_scene(200, 3, 40, 40, seed=7, size=0.2)
    inputs["means"][..., 2] = 3.0
    inputs["means"][:, 100:] = inputs["means"][:, :100]
    both(inputs)


def test_a_list_far_longer_than_a_batch_and_soon_closed() -> None:
    inputs = random_scene(5000, 8, 33, 20, seed=8, size=0.5)
    both(inputs)


def test_off_centre_principal_point() -> None:
    inputs = random_scene(100, 3, 64, 48, seed=9)
    inputs["K"][0, 2] += 7.25
    inputs["K"][1, 2] -= 3.5
    shifted = rasterize(**inputs, backend="numba")
    both(inputs)
    inputs["K"][0, 2] -= 7.25
    assert not torch.equal(shifted.image, rasterize(**inputs, backend="numba").image)


def test_splat_records_are_the_reference_to_the_last_bit() -> None:
    """Order and thresholds are decided by these numbers."""
    inputs = random_scene(4000, 1, 512, 512, seed=10, size=0.01, tanfov=1 / 24)
    inputs["means"][..., 2] += 20
    splats = rasterize_torch.project(
        inputs["means"][0], inputs["quats"][0], inputs["scales"][0], inputs["opacities"], inputs["viewmats"][0],
        inputs["K"], 512, 512, False,
    )  # fmt: skip
    records = np.zeros((1, 4000, rasterize_numba.RECORD), np.float32)
    boxes, depths, radii = np.zeros((1, 4000, 4), np.uint16), np.zeros((1, 4000), np.float32), np.zeros((1, 4000), "i4")
    arrays = [inputs[name].numpy() for name in ("means", "quats", "scales", "opacities", "viewmats")]
    K = inputs["K"]
    lens = np.array([K[0, 0], K[1, 1], K[0, 2], K[1, 2]], np.float32)
    rasterize_numba._project(*arrays, lens, 512, 512, np.float32(1), False, records, boxes, depths, radii)
    drawn = boxes[0, :, 2] > boxes[0, :, 0]
    assert drawn.sum() > 100
    assert np.array_equal(radii[0], splats.radii.numpy())
    assert np.array_equal(depths[0, drawn], splats.depths.numpy()[drawn])
    assert np.array_equal(records[0, drawn, :2], splats.centers.numpy()[drawn])
    # a fused sum of the matrix library may move the double behind it, so the last float32 bit
    np.testing.assert_allclose(records[0, drawn, 2:5], splats.conics.numpy()[drawn], rtol=3e-7, atol=1e-12)
    inside = (boxes[0, :, :2] >= splats.tile_min.numpy()) & (boxes[0, :, 2:] <= splats.tile_max.numpy())
    assert inside[drawn].all(), "a box may only shrink the reference's rectangle"


@pytest.mark.parametrize("seed", range(3))
def test_shrunken_boxes_lose_no_pixel(seed: int) -> None:
    """One splat at a time, so that nothing hides a pixel that a bound cut off."""
    inputs = random_scene(64, 1, 64, 64, seed=20 + seed, size=0.15)
    inputs["features"][:] = 1
    for k in range(64):
        one = inputs | {name: inputs[name][:, k : k + 1] for name in ("means", "quats", "scales")}
        one |= {name: inputs[name][k : k + 1] for name in ("opacities", "features")}
        fast, slow = rasterize(**one, backend="numba").alpha, rasterize(**one, backend="torch").alpha
        differ = (fast > 0) != (slow > 0)
        on_threshold = (torch.maximum(fast, slow) - 1 / 255).abs() < 1e-6
        assert (on_threshold | ~differ).all(), k


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")
def test_result_does_not_depend_on_the_number_of_threads() -> None:
    inputs = random_scene(3000, 5, 100, 90, seed=11, frames=3)
    before = torch.get_num_threads()
    pictures = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            pictures.append(rasterize(**inputs, backend="numba"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(pictures[0].image, pictures[1].image)
    assert torch.equal(pictures[0].alpha, pictures[1].alpha)
    assert torch.equal(pictures[0].inverse_depth, pictures[1].inverse_depth)


def test_frames_drawn_in_parts_are_the_same_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_scene(300, 4, 60, 50, seed=12, frames=4)
    together = rasterize(**inputs, backend="numba")
    monkeypatch.setattr(rasterize_numba, "LIST_BYTES", 1)
    one_by_one = rasterize(**inputs, backend="numba")
    assert torch.equal(together.image, one_by_one.image) and torch.equal(together.radii, one_by_one.radii)


def test_calls_from_several_python_threads() -> None:
    inputs = random_scene(300, 4, 60, 50, seed=13)
    expected = rasterize(**inputs, backend="numba").image
    found: list[torch.Tensor] = []
    threads = [
        threading.Thread(target=lambda: found.append(rasterize(**inputs, backend="numba").image)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(torch.equal(image, expected) for image in found)


def test_compiles_without_a_place_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def njit(cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(numba_cache, "njit", njit)
    assert numba_cache.cached_njit()(lambda x: x + 1)(1) == 2


def test_exp_is_good_to_two_units_in_the_last_place() -> None:
    x = np.linspace(-20, 0, 20001, dtype=np.float32)
    found = np.array([rasterize_numba.exp_float32(v) for v in x], np.float64)
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() <= 2 * 2**-23
