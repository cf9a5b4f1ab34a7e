"""The refiner against the numbers recorded from the original."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from guava_aug.avatar import StyleUNet, StyleUNetConfig

pytestmark = pytest.mark.parity
ATOL = 2e-4
PREFIX = "nerual_refiner."


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden / "refiner.npz")


@pytest.fixture(scope="module")
def weights(golden):
    sys.path.insert(0, str(golden))
    try:
        import golden_weights  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(golden))
    assert Path(golden_weights.__file__).parent == golden
    return golden_weights


def _refiner(weights, noise_strength=None):
    refiner = StyleUNet(StyleUNetConfig())
    state = {}
    for key, value in refiner.state_dict().items():
        filled = weights.fill_array(PREFIX + key, value.shape)
        if noise_strength is not None and filled.shape == (1,):
            filled = np.full((1,), noise_strength, np.float32)
        state[key] = torch.from_numpy(filled)
    refiner.load_state_dict(state, strict=True)
    return refiner.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image(weights, recorded):
    image = torch.from_numpy(weights.refiner_input(303))
    np.testing.assert_allclose(image[0, :, ::64, ::64], recorded["input_sample"], atol=1e-6)
    return image


@pytest.mark.parametrize("case", ["nonoise", "noise"])
def test_output(weights, recorded, image, case):
    refiner = _refiner(weights, 0.0 if case == "nonoise" else None)
    maps = [torch.from_numpy(weights.noise_image(i, s)) for i, s in enumerate(refiner.noise_sizes)]
    out = torch.sigmoid(refiner(image, maps))[0].numpy()
    np.testing.assert_allclose(out[:, ::4, ::4], recorded[f"out_{case}_stride4"], atol=ATOL)
    np.testing.assert_allclose(out[:, 224:288, 224:288], recorded[f"out_{case}_crop"], atol=ATOL)
    np.testing.assert_allclose(out.mean((1, 2)), recorded[f"out_{case}_mean"], atol=ATOL)
    np.testing.assert_allclose(out.std((1, 2)), recorded[f"out_{case}_std"], atol=ATOL)


def test_inside(weights, recorded, image):
    refiner = _refiner(weights)
    style, conditions = refiner.encode(image)
    np.testing.assert_allclose(style[0], recorded["style_code"], atol=ATOL)
    np.testing.assert_allclose(refiner.stylegan_decoder.style_mlp(style)[0], recorded["latent"], atol=ATOL)
    stats = [[float(m.mean()), float(m.std())] for pair in conditions for m in pair]
    np.testing.assert_allclose(stats, recorded["condition_mean_std"], atol=ATOL)
    assert refiner.noise_sizes == recorded["noise_needed_sizes"].tolist()
    stored = [b.shape[-1] for b in refiner.stylegan_decoder.stored_noise()]
    assert stored == recorded["noise_buffer_sizes"].tolist()


def test_a_batch_is_its_frames(weights, image):
    refiner = _refiner(weights)
    maps = [torch.from_numpy(weights.noise_image(i, s)) for i, s in enumerate(refiner.noise_sizes)]
    pair = torch.cat([image, image.flip(-1)])
    together = refiner(pair, maps)
    torch.testing.assert_close(together[1:], refiner(pair[1:], maps), atol=1e-5, rtol=1e-4)
