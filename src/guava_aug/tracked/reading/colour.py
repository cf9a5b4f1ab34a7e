"""Decoded frames as 8-bit RGB: the right matrix and range, and tone mapping of HDR.

Sources: ITU-R BT.601, BT.709, BT.2020 (matrices), BT.2100 (PQ, HLG), BT.2390 (tone curve), BT.2408 (white of 203 nits),
BT.1886 (gamma 2.4 of a display).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.reformatter import ColorRange, Interpolation

_FULL = int(ColorRange.JPEG)
_LIMITED = int(ColorRange.MPEG)
# Exact to half a level of 255; without the last two libswscale is off by up to 2.7 levels.
_ACCURATE_RND, _FULL_CHR_H_INT = 0x40000, 0x2000  # libswscale's; names for them came with PyAV 18
_SCALING = int(Interpolation.BICUBIC) | _ACCURATE_RND | _FULL_CHR_H_INT

# codes of ITU-T H.273
_PLANAR_420 = ("yuv420p", "yuvj420p")
_MATRIX_709, _MATRIX_601, _MATRIX_2020 = 1, 5, 9
_MATRICES = {1: _MATRIX_709, 4: _MATRIX_601, 5: _MATRIX_601, 6: _MATRIX_601, 7: 7, 9: _MATRIX_2020, 10: _MATRIX_2020}
_TRANSFER_PQ, _TRANSFER_HLG = 16, 18
_PRIMARIES_2020, _PRIMARIES_P3 = 9, (11, 12)
_SD_HEIGHT, _SD_WIDTH = 576, 1024  # pixels; a larger picture without tags is BT.709, as players have it
_LUMA = {_MATRIX_709: (0.2126, 0.0722), _MATRIX_601: (0.299, 0.114), 7: (0.212, 0.087), _MATRIX_2020: (0.2627, 0.0593)}

WHITE = 203.0  # nits of diffuse white in HDR (BT.2408), which becomes white of SDR before the tone curve
PEAK = 1000.0  # nits; of HLG displays, and of PQ files that do not say theirs
_DISPLAY_GAMMA = 2.4
_HLG_GAMMA = 1.2  # system gamma of a display of 1000 nits
_P3_TO_709 = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
_2020_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_STEPS = 65536  # of tables over a signal 0..1
_TONE_STEPS = 4096  # of the tables over light; indexed by roots, so that shadows have enough of them
_MOST_LIGHT = 10000.0 / WHITE


@dataclass(frozen=True)
class Colour:
    """How the numbers of a frame are to be read."""

    matrix: int  # code of H.273, one of `_LUMA`; 0: RGB
    full_range: bool
    transfer: int
    primaries: int
    peak: float = PEAK  # nits of the brightest light, for PQ

    @classmethod
    def of(cls, frame: Any, peak: float = PEAK) -> Colour:
        """Return the colour of a decoded frame by its tags, and by its size where it has none."""
        name = frame.format.name
        primaries, transfer = int(frame.color_primaries or 0), int(frame.color_trc or 0)
        wide = primaries == _PRIMARIES_2020 or transfer in (_TRANSFER_PQ, _TRANSFER_HLG)
        large = frame.height > _SD_HEIGHT or frame.width > _SD_WIDTH
        default = _MATRIX_2020 if wide else _MATRIX_709 if large else _MATRIX_601
        rgb = bool(frame.format.is_rgb) or name.startswith("pal")
        matrix = 0 if rgb else _MATRICES.get(int(frame.colorspace or 0), default)
        full = rgb or name.startswith("yuvj") or int(frame.color_range or 0) == _FULL
        return cls(matrix, full, transfer, primaries, peak)

    @property
    def is_hdr(self) -> bool:
        """Return whether the light of highlights goes beyond white."""
        return self.transfer in (_TRANSFER_PQ, _TRANSFER_HLG)

    @property
    def is_wide(self) -> bool:
        """Return whether the primaries are wider than those of BT.709."""
        return self.primaries == _PRIMARIES_2020 or self.primaries in _PRIMARIES_P3

    def in_words(self) -> str | None:
        """Return what `to_rgb` does beyond the matrix; None: nothing."""
        if self.is_hdr:
            kind = "PQ" if self.transfer == _TRANSFER_PQ else "HLG"
            return f"HDR ({kind}, peak {self.peak:g} nits) is tone mapped to SDR"
        if self.is_wide and self.matrix:
            return "wide colours are converted to BT.709 primaries"
        return None


def to_rgb(frame: Any, colour: Colour, width: int, height: int) -> np.ndarray:
    """Return a decoded frame as uint8 [height, width, 3] RGB with BT.709 primaries, for an SDR display."""
    plain = colour.matrix and not colour.is_hdr and not colour.is_wide
    if plain and frame.format.name in _PLANAR_420 and (frame.width, frame.height) == (width, height):
        return _planar_to_rgb(frame, colour)
    size = {"width": width, "height": height, "interpolation": _SCALING}
    if not colour.matrix:
        return _array(frame.reformat(format="rgb24", **size))
    source_range = _FULL if colour.full_range else _LIMITED
    if plain:
        return _array(
            frame.reformat(
                format="rgb24",
                src_colorspace=colour.matrix,
                src_color_range=source_range,
                dst_color_range=_FULL,
                **size,
            )
        )
    from guava_aug.tracked.reading.colour_numba import convert  # noqa: PLC0415 - numba is slow to import

    planes = frame.reformat(format="yuv444p16le", src_color_range=source_range, dst_color_range=source_range, **size)
    yuv = np.ascontiguousarray(planes.to_ndarray())  # [H, W, 3] uint16
    out = np.empty(yuv.shape, np.uint8)
    tables = _tables(colour)
    convert(
        yuv, tables.matrix, tables.offset, tables.to_light, tables.ootf, tables.gain, tables.gamut, tables.code, out
    )
    return out


def _planar_to_rgb(frame: Any, colour: Colour) -> np.ndarray:
    """Return `to_rgb` of 8-bit 4:2:0, the usual case: as exact as libswscale's exact way, in a fraction of its time."""
    from guava_aug.tracked.reading.colour_numba import convert_420  # noqa: PLC0415 - numba is slow to import

    planes = []
    for plane, half in zip(frame.planes, (1, 2, 2), strict=True):
        rows, columns = -(-frame.height // half), -(-frame.width // half)
        planes.append(np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:rows, :columns])
    out = np.empty((frame.height, frame.width, 3), np.uint8)
    factors, black = _factors(colour.matrix, colour.full_range)
    convert_420(planes[0], planes[1], planes[2], factors, black, out)
    return out


@functools.lru_cache(maxsize=8)
def _factors(matrix: int, full_range: bool) -> tuple[np.ndarray, np.float32]:
    """Return luma, red of Cr, green of Cb, green of Cr, blue of Cb, and the luma of black."""
    kr, kb = _LUMA[matrix]
    kg = 1 - kr - kb
    luma, chroma = (1.0, 1.0) if full_range else (255 / 219, 255 / 224)
    factors = (luma, 2 * (1 - kr) * chroma, -2 * kb * (1 - kb) / kg * chroma, -2 * kr * (1 - kr) / kg * chroma,
               2 * (1 - kb) * chroma)  # fmt: skip
    return np.array(factors, np.float32), np.float32(0 if full_range else 16)


def _array(frame: Any) -> np.ndarray:
    array: np.ndarray = frame.to_ndarray()
    return array


@dataclass(frozen=True)
class _Tables:
    matrix: np.ndarray  # [3, 3] float32, YCbCr (16-bit steps, offsets taken off) -> R'G'B' 0..1
    offset: np.ndarray  # [3] float32
    to_light: np.ndarray  # [_STEPS] float32, signal -> light, 1 = white
    ootf: float  # exponent of the luminance that light is multiplied by; 0: none
    gain: np.ndarray  # [_TONE_STEPS] float32 over (brightest channel / _MOST_LIGHT) ** (1/4)
    gamut: np.ndarray  # [3, 3] float32
    code: np.ndarray  # [_TONE_STEPS] uint8 over light ** (1/2)


@functools.lru_cache(maxsize=8)
def _tables(colour: Colour) -> _Tables:
    kr, kb = _LUMA[colour.matrix]
    kg = 1 - kr - kb
    red, blue = 2 * (1 - kr), 2 * (1 - kb)
    to_signal = np.array([[1, 0, red], [1, -kb * blue / kg, -kr * red / kg], [1, blue, 0]])
    if colour.full_range:
        offset, scale = (0, 32768, 32768), (65472, 65472, 65472)  # of ten bits, shifted
    else:
        offset, scale = (16 << 8, 32768, 32768), (219 << 8, 224 << 8, 224 << 8)
    signal = np.linspace(0, 1, _STEPS)
    light, ootf = _light(signal, colour)
    brightest = _MOST_LIGHT * np.linspace(0, 1, _TONE_STEPS) ** 4
    gain = _tone_gain(brightest, colour.peak) if colour.is_hdr else np.ones(_TONE_STEPS)
    gamut = _P3_TO_709 if colour.primaries in _PRIMARIES_P3 else _2020_TO_709
    code = np.round(255 * np.linspace(0, 1, _TONE_STEPS) ** (2 / _DISPLAY_GAMMA))
    return _Tables(
        (to_signal / np.array(scale)).astype(np.float32), np.array(offset, np.float32), light.astype(np.float32), ootf,
        gain.astype(np.float32), gamut.astype(np.float32), code.astype(np.uint8),
    )  # fmt: skip


def _light(signal: np.ndarray, colour: Colour) -> tuple[np.ndarray, float]:
    """Return the light of a signal, 1 = white, and the exponent of the luminance that it is to be multiplied by."""
    if colour.transfer == _TRANSFER_PQ:
        return pq_to_nits(signal) / WHITE, 0.0
    if colour.transfer == _TRANSFER_HLG:
        scene = hlg_to_scene(signal)
        return scene * (PEAK / WHITE) ** (1 / _HLG_GAMMA), _HLG_GAMMA - 1  # so that scene ** gamma gets PEAK / WHITE
    return signal**_DISPLAY_GAMMA, 0.0


_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def pq_to_nits(signal: np.ndarray) -> np.ndarray:
    """Return the light, 0..10000 nits, of a PQ signal 0..1 (BT.2100, table 4)."""
    p = np.clip(signal, 0, 1) ** (1 / _M2)
    light: np.ndarray = 10000 * (np.maximum(p - _C1, 0) / (_C2 - _C3 * p)) ** (1 / _M1)
    return light


def nits_to_pq(nits: np.ndarray) -> np.ndarray:
    """Return the PQ signal 0..1 of light in nits; inverse of `pq_to_nits`."""
    y = (np.maximum(nits, 0) / 10000) ** _M1
    signal: np.ndarray = ((_C1 + _C2 * y) / (1 + _C3 * y)) ** _M2
    return signal


def hlg_to_scene(signal: np.ndarray) -> np.ndarray:
    """Return scene light 0..1 of an HLG signal 0..1 (BT.2100, table 5: the inverse of the OETF)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    low = np.clip(signal, 0, 0.5) ** 2 / 3
    high = (np.exp((np.clip(signal, 0.5, 1) - c) / a) + b) / 12
    scene: np.ndarray = np.where(signal <= 0.5, low, high)
    return scene


def _tone_gain(brightest: np.ndarray, peak: float) -> np.ndarray:
    """Return the factor on light, so that `peak` nits become white, by the curve of BT.2390 (section 5.4.1)."""
    top = float(nits_to_pq(np.array(max(peak, WHITE))))
    target = float(nits_to_pq(np.array(WHITE))) / top
    knee = 1.5 * target - 0.5
    level = np.clip(nits_to_pq(brightest * WHITE) / top, 0, 1)
    t = np.clip((level - knee) / (1 - knee), 0, 1) if knee < 1 else np.zeros_like(level)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * target
    mapped = np.where(level < knee, level, bent)
    light = pq_to_nits(mapped * top) / WHITE
    return np.where(brightest > 1e-9, light / np.maximum(brightest, 1e-9), 1.0)
