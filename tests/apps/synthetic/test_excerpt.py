"""The bundled clips as the demo shows them: one whole, a second of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic import demo_root
from guava_aug.apps.synthetic.clips import short_demo
from guava_aug.errors import OutputError
from guava_aug.tracked import TrackedVideo, list_videos


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("short")
    assert short_demo(demo_root(), ["signer_c", "signer_a"], out) == ["signer_c", "signer_a_1s"]
    return out


def test_the_first_is_the_clip_itself(short: Path):
    files = [p.relative_to(demo_root()) for p in (demo_root() / "signer_c").rglob("*") if p.is_file()]
    assert files and all((short / f).read_bytes() == (demo_root() / f).read_bytes() for f in files)
    assert list_videos(short) == ["signer_a_1s", "signer_c"]


def test_the_others_are_their_first_second(short: Path):
    clip, second = TrackedVideo.open(demo_root(), "signer_a"), TrackedVideo.open(short, "signer_a_1s")
    assert second.num_frames == 25 and second.fps == clip.fps and second.image_size == clip.image_size
    assert torch.equal(second.viewmats, clip.viewmats[:25])
    for name, values in vars(second.motion).items():
        assert torch.equal(values, getattr(clip.motion, name)[:25]), name
    for ours, theirs in zip(second.read_frame(24), clip.read_frame(24), strict=True):
        assert np.abs(ours.astype(int) - theirs.astype(int)).mean() < 2


def test_what_is_there_is_kept_or_refused(short: Path):
    before = {p: p.stat().st_mtime_ns for p in short.rglob("*.mdb")}
    short_demo(demo_root(), ["signer_c", "signer_a"], short)
    assert before == {p: p.stat().st_mtime_ns for p in short.rglob("*.mdb")}
    (short / "signer_b_1s").mkdir()
    with pytest.raises(OutputError, match="signer_b_1s is there"):
        short_demo(demo_root(), ["signer_c", "signer_b"], short)
