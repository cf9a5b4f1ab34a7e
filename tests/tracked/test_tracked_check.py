"""The table of what is right and wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_clip import edit_pickle, put_images, small_frames, small_identity  # type: ignore[import-not-found]

from guava_aug.errors import InputError
from guava_aug.tracked import Timing, check_videos


def test_a_mixed_root(write, tmp_path: Path) -> None:
    write("a good", fps=25)
    write("b same person")
    write("c other person", identity=small_identity(7), count=2)
    put_images(write("d bad images"), {"frame_000002/body_image": b"x", "frame_000004/body_mask": b"y"})
    edit_pickle(
        write("e nan") / "optim_tracking_ehm.pkl",
        lambda t: t["frame_000003"]["smplx_coeffs"].update(exp=np.full(50, np.nan)),
    )
    (write("f skipped") / "skipped.txt").write_text("too short")
    data = write("g cut") / "img_lmdb" / "data.mdb"
    data.write_bytes(data.read_bytes()[:9000])
    (write("h half copied") / "videos_info.json").unlink()
    (tmp_path / "notes").mkdir()
    (tmp_path / "readme.txt").write_text("x")

    rows = {row.name[0]: row for row in check_videos(tmp_path)}
    assert "".join(rows) == "abcdefgh"
    assert [row.ok for row in rows.values()] == [True, True, True, *[False] * 5]
    assert (rows["a"].frames, rows["a"].size, rows["a"].fps) == (5, 64, 25.0)
    assert rows["a"].identity == rows["b"].identity != rows["c"].identity and len(rows["a"].identity) == 8
    assert ["frame_000002" in rows["d"].problems[0], "frame_000004" in rows["d"].problems[1]] == [True, True]
    assert "frame_000003" in rows["e"].problems[0] and rows["e"].frames == 5
    assert "too short" in rows["f"].problems[0] and rows["f"].frames is None
    assert "truncated" in rows["g"].problems[0]
    assert "videos_info.json is missing" in rows["h"].problems[0]
    assert all(row.name in problem for row in rows.values() for problem in row.problems)

    assert check_videos(tmp_path, ["d bad images"], decode=False)[0].ok  # not looked into
    absent, evil = check_videos(tmp_path, ["absent", "../a good"])
    assert not absent.ok and "is refused" in evil.problems[0]


def test_warnings(write, tmp_path: Path) -> None:
    frames = small_frames(5)
    for i in (2, 3):
        frames[i] = (frames[i][0], np.zeros_like(frames[i][1]))
    path = write("v", frames=frames) / "videos_info.json"
    path.write_text(path.read_text().replace('"frames_num": 5', '"frames_num": 6'))
    (row,) = check_videos(tmp_path)
    assert row.ok and "frames_num is 6" in row.warnings[0]
    assert row.warnings[1] == "frame 'frame_000002' and 1 more: the mask is empty"


def test_many_problems_are_cut_short(write, tmp_path: Path) -> None:
    path = write("v", count=40)
    put_images(path, {f"frame_{i:06d}/body_image": b"x" for i in range(1, 40)})
    (row,) = check_videos(tmp_path)
    assert len(row.problems) == 21 and row.problems[-1] == "and 19 more frames"


def test_the_time_map_is_checked_too(write, tmp_path: Path) -> None:
    write("v")
    (row,) = check_videos(tmp_path, time_map={"v": Timing(24.0, (1, 2))})
    assert "expected 5 source_frames" in row.problems[0]
    with pytest.raises(InputError, match="is not a folder"):
        check_videos(tmp_path / "nowhere")
