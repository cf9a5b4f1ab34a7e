"""Small videos of every kind, made with PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np


def picture(i: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A picture that tells which way is up, and its number: the mean of its lower half is 40 + 4 i."""
    out = np.full((height, width, 3), 40 + 4 * i, np.uint8)
    out[: height // 2] = 90
    out[: height // 2, : width // 2] = (200, 30, 30)  # upper left
    out[: height // 2, width // 2 :] = (30, 30, 200)  # upper right
    return out


def number_of(rgb: np.ndarray) -> float:
    """The number that `picture` was made with, of an upright picture."""
    return float((rgb[rgb.shape[0] * 3 // 4 :].mean() - 40) / 4)


def is_upright(rgb: np.ndarray) -> bool:
    h, w = rgb.shape[:2]
    left, right = rgb[h // 8 : h * 3 // 8, w // 8 : w * 3 // 8], rgb[h // 8 : h * 3 // 8, w * 5 // 8 : w * 7 // 8]
    return bool(
        left[..., 0].mean() > 150
        and left[..., 2].mean() < 90
        and right[..., 2].mean() > 150
        and right[..., 0].mean() < 90
    )


def write_video(
    path: Path,
    pictures: Iterable[np.ndarray | av.VideoFrame],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int | Fraction = 25,
    pts: Sequence[int] | None = None,
    rotation: int | None = None,
    options: dict[str, str] | None = None,
    tags: dict[str, Any] | None = None,
    ratio: Fraction | None = None,
    sound: bool = False,
    sound_codec: str = "aac",
    container: str | None = None,
) -> Path:
    """Write a video; `pts` counts in frames of `rate`, `tags` are attributes of the codec context."""
    with av.open(str(path), "w", format=container) as out:
        stream = None
        audio = out.add_stream(sound_codec, rate=48000, layout="mono") if sound else None
        count = 0
        for i, shown in enumerate(pictures):
            if isinstance(shown, av.VideoFrame):
                frame = shown
            else:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), format="rgb24")
                frame = frame.reformat(format=pix_fmt, dst_colorspace=5, dst_color_range=1, src_color_range=2)
            if stream is None:
                quick = {"crf": "10", "preset": "ultrafast"} if codec == "libx264" else {}
                stream = out.add_stream(codec, rate=rate, options={**quick, **(options or {})})
                stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
                for name, value in (tags or {}).items():
                    setattr(stream.codec_context, name, value)
                if ratio is not None:
                    stream.codec_context.sample_aspect_ratio = ratio
                if rotation is not None:
                    stream.set_display_rotation(rotation)
            frame.pts = i if pts is None else pts[i]
            frame.time_base = 1 / Fraction(rate)
            out.mux(stream.encode(frame))
            count = frame.pts + 1
        out.mux(stream.encode())
        if audio is not None:
            for tone in tones(float(count / Fraction(rate))):
                out.mux(audio.encode(tone))
            out.mux(audio.encode())
    return path


def tones(seconds: float, rate: int = 48000, block: int = 1024) -> Iterable[av.AudioFrame]:
    """A tone that is heard in every second second only: 440 Hz in the first, nothing in the next."""
    t = np.arange(int(seconds * rate)) / rate
    wave = (np.sin(2 * np.pi * 440 * t) * 0.5 * (t.astype(int) % 2 == 0)).astype(np.float32)
    for start in range(0, len(wave), block):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + block], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield frame
