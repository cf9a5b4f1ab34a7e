"""The sound of a part of a video begins where the part begins."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from made_videos import picture, write_video  # type: ignore[import-not-found]

from guava_aug.tracked.reading import extract_audio, open_source


def loud(path: Path, rate: int = 48000) -> np.ndarray:
    """Whether there is sound, [N] bool: for every 0.1 s of the file's time."""
    with av.open(str(path)) as file:
        samples = np.zeros(rate * 20)
        for frame in file.decode(audio=0):
            at = round(float(frame.time) * rate)
            wave = frame.to_ndarray().astype(float)[0]
            wave = wave[max(0, -at) :]
            samples[max(0, at) : max(0, at) + len(wave)] = wave
    blocks = samples.reshape(-1, rate // 10)
    level = np.sqrt((blocks**2).mean(1))
    return level > 0.3 * level.max()


@pytest.mark.parametrize("name, codec", [("a.mp4", "aac"), ("b.mkv", "pcm_s16le"), ("c.mkv", "libopus")])
def test_a_part(tmp_path: Path, name: str, codec: str) -> None:
    source = open_source(
        write_video(tmp_path / name, (picture(i % 50) for i in range(150)), sound=True, sound_codec=codec)
    )
    assert source.audio
    start, stop = (source.axis.start + source.axis.seconds(i) for i in (35, 110))  # 1.4 s to 4.4 s
    assert extract_audio(source.path, start, stop, tmp_path / "part.m4a")
    heard = loud(tmp_path / "part.m4a")
    # the tone of second 2 is 0.6 s to 1.6 s of the part, that of second 4 begins at 2.6 s
    assert heard[7:15].all() and not heard[1:5].any() and not heard[18:25].any() and heard[27:29].all()
    assert not heard[31:].any()
    with av.open(str(tmp_path / "part.m4a")) as file:
        assert file.streams.audio[0].codec_context.name == (
            "aac" if codec.startswith("pcm") else codec.removeprefix("lib")
        )


def test_no_sound_there(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "silent.mp4", map(picture, range(5)))
    assert not open_source(silent).audio
    assert not extract_audio(silent, Fraction(0), Fraction(1), tmp_path / "x.m4a")
    short = write_video(tmp_path / "short.mp4", map(picture, range(25)), sound=True)
    assert not extract_audio(short, Fraction(50), Fraction(60), tmp_path / "x.m4a")
    assert [p.name for p in tmp_path.iterdir() if "x.m4a" in p.name] == []
