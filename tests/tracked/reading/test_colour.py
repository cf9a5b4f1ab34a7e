"""HDR and wide colours as an SDR display shows them, against the equations of the recommendations."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import write_video  # type: ignore[import-not-found]

from guava_aug.tracked.reading import open_source
from guava_aug.tracked.reading.colour import hlg_to_scene, nits_to_pq, pq_to_nits

_2020 = np.array([[0.2627, 0.6780, 0.0593], [-0.13963, -0.36037, 0.5], [0.5, -0.45979, -0.04021]])  # BT.2020, table 4
PQ, HLG = {"colorspace": 9, "color_trc": 16, "color_primaries": 9}, {"colorspace": 9, "color_trc": 18,
                                                                       "color_primaries": 9}  # fmt: skip


def _frame(signal: np.ndarray, full: bool = False) -> av.VideoFrame:
    """A 10-bit frame of one colour, R'G'B' 0..1 of BT.2020."""
    y, u, v = _2020 @ signal
    codes = (y * 1023, u * 1023 + 512, v * 1023 + 512) if full else (64 + 876 * y, 512 + 896 * u, 512 + 896 * v)
    frame = av.VideoFrame(64, 48, "yuv420p10le")
    for plane, code in zip(frame.planes, codes, strict=True):
        plane.update(np.full(plane.buffer_size // 2, round(code), np.uint16).tobytes())
    return frame


def _shown(tmp_path: Path, signal: list[float], tags: dict, full: bool = False) -> np.ndarray:
    tags = {**tags, "color_range": 2 if full else 1}
    path = write_video(tmp_path / "hdr.mkv", [_frame(np.array(signal), full)] * 2, codec="ffv1", pix_fmt="yuv420p10le",
                       tags=tags)  # fmt: skip
    source = open_source(path)
    frame = next(iter(source))
    assert any("tone mapped" in note or "wide colours" in note for note in source.notes)
    return frame.rgb[20, 30].astype(float)


def test_pq_is_its_own_inverse_and_has_known_values() -> None:
    nits = np.array([0, 0.005, 1, 100, 203, 1000, 10000])
    np.testing.assert_allclose(pq_to_nits(nits_to_pq(nits)), nits, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(nits_to_pq(np.array([100, 203, 1000, 10000])), [0.5081, 0.5807, 0.7518, 1], atol=1e-4)


def test_hlg_has_known_values() -> None:
    # BT.2408: 75 % of the signal is 203 nits on a display of 1000 nits
    np.testing.assert_allclose(1000 * hlg_to_scene(np.array([0.75])) ** 1.2, 203, rtol=0.01)
    np.testing.assert_allclose(hlg_to_scene(np.array([0.0, 0.5, 1.0])), [0, 1 / 12, 1], atol=1e-6)


@pytest.mark.parametrize("tags, signal_of", [(PQ, lambda nits: nits_to_pq(np.array(nits))),
                                             (HLG, lambda nits: _hlg_signal((nits / 1000) ** (1 / 1.2)))])  # fmt: skip
@pytest.mark.parametrize("full", [False, True])
def test_grey_levels(tmp_path: Path, tags: dict, signal_of, full: bool) -> None:
    """Shadows and mid-tones are as bright as in SDR, diffuse white nearly white, the peak white; grey stays grey."""
    for nits, low, high in ((2.03, 0.010, 0.0102), (20.3, 0.099, 0.101), (203, 0.7, 0.9), (1000, 0.98, 1.0)):
        level = float(signal_of(nits))
        shown = _shown(tmp_path, [level] * 3, tags, full)
        assert np.ptp(shown) <= 1
        light = (shown.mean() / 255) ** 2.4
        assert low - 0.002 <= light <= high + 0.002, (nits, shown)


def _hlg_signal(scene: float) -> float:
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return float(np.sqrt(3 * scene) if scene <= 1 / 12 else a * np.log(12 * scene - b) + c)


def test_a_colour_keeps_its_hue(tmp_path: Path) -> None:
    """A skin tone of BT.709 at 60 nits comes back as in SDR."""
    skin = np.array([0.50, 0.27, 0.18])  # light
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])  # BT.2087
    signal = nits_to_pq(to_2020 @ skin * 100)
    expected = 255 * (skin * 100 / 203) ** (1 / 2.4)
    np.testing.assert_allclose(_shown(tmp_path, list(signal), PQ), expected, atol=2.0)


def test_sdr_of_bt2020_is_only_moved_to_other_primaries(tmp_path: Path) -> None:
    tags = {"colorspace": 9, "color_trc": 14, "color_primaries": 9}
    np.testing.assert_allclose(_shown(tmp_path, [0.5, 0.5, 0.5], tags), 127.5, atol=1)
    red = _shown(tmp_path, [0.6, 0.2, 0.2], tags)
    assert red[0] > 0.6 * 255 + 10 and red[1] < 0.2 * 255  # wider primaries: more colour in BT.709
