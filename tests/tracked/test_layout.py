"""Finding tracked videos below a root."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guava_aug.errors import InputError
from guava_aug.tracked import TrackedVideo, list_videos, scan_videos

NAMES = ["plain", "with space", "Zeichen_äöü_手話", "dots.in.name", "-dash", "a..b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["flat", "nested", "merged"])
def test_every_layout_and_name(write, tmp_path: Path, name: str, kind: str) -> None:
    path = write(name, layout_kind=kind, count=2)
    video = TrackedVideo.open(tmp_path, name)
    assert (video.name, video.path, video.num_frames) == (name, path, 2)
    assert list_videos(tmp_path) == [name]


def test_nested_wins_over_flat(write, tmp_path: Path) -> None:
    write("v", count=2)
    write("v", count=3, layout_kind="nested")
    assert TrackedVideo.open(tmp_path, "v").num_frames == 3


def test_the_directory_of_a_video_as_root(write, tmp_path: Path) -> None:
    path = write("v", count=2)
    assert TrackedVideo.open(path, "v").path == path
    assert list_videos(path) == ["v"]


def test_a_renamed_directory(write, tmp_path: Path) -> None:
    write("v", count=2).rename(tmp_path / "other")
    assert TrackedVideo.open(tmp_path, "other").name == "other"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/etc", "a/b", "../v", "a\\b", "a\0b", "v/", "/", "\udcff"], ids=lambda n: ascii(n)
)
def test_names_that_leave_the_root(write, tmp_path: Path, name: str) -> None:
    write("v", count=1)
    with pytest.raises(InputError, match="is refused"):
        TrackedVideo.open(tmp_path, name)


def test_names_that_are_not_there(write, tmp_path: Path) -> None:
    write("here", count=1)
    for name in ("absent", "x" * 5000):
        with pytest.raises(InputError, match="there: here"):
            TrackedVideo.open(tmp_path, name)
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match=r"bare is not a tracked video.*no videos_info\.json"):
        TrackedVideo.open(tmp_path, "bare")
    with pytest.raises(InputError, match=r"--tracked_root .*nowhere is not a folder; check the path"):
        TrackedVideo.open(tmp_path / "nowhere", "here")
    with pytest.raises(InputError, match=r"--tracked_root .*nowhere is not a folder; check the path"):
        list_videos(tmp_path / "nowhere")


def test_a_mistyped_name_is_suggested(tmp_path: Path) -> None:
    for i in range(1000):
        (tmp_path / f"clip_{i:04d}").mkdir()
        (tmp_path / f"clip_{i:04d}" / "videos_info.json").touch()
    with pytest.raises(InputError, match=r"'clip_O777' is not below .*; did you mean .*\bclip_0777\b"):
        TrackedVideo.open(tmp_path, "clip_O777")
    with pytest.raises(InputError, match=r"there: clip_0000, clip_0001, clip_0002 and 997 more"):
        TrackedVideo.open(tmp_path, "signer")


@pytest.mark.parametrize("nested", [False, True])
def test_a_folder_that_should_be_a_video(write, tmp_path: Path, nested: bool) -> None:
    write("good", count=1)
    for name in ("half", ".hidden"):
        path = write(name, count=1, layout_kind="nested" if nested else "flat")
        (path / "videos_info.json").unlink()
    for other in ("empty", "augmented/easy/good"):
        (tmp_path / other).mkdir(parents=True)
    assert scan_videos(tmp_path) == (["good"], [], ["half"])
    assert list_videos(tmp_path) == ["good"] and list_videos(tmp_path, include_skipped=True) == ["good", "half"]
    with pytest.raises(InputError, match=r"half is incomplete: videos_info\.json is missing"):
        TrackedVideo.open(tmp_path, "half")


def test_a_merged_set_has_no_incomplete_folders(write, tmp_path: Path) -> None:
    write("v", count=1, layout_kind="merged")
    assert scan_videos(tmp_path) == (["v"], [], [])


def test_failed_tracking(write, tmp_path: Path) -> None:
    path = write("v", count=1)
    (path / "skipped.txt").write_text("no person found\n")
    with pytest.raises(InputError, match=r"tracking of video 'v' failed.*no person found"):
        TrackedVideo.open(tmp_path, "v")
    assert list_videos(tmp_path) == [] and list_videos(tmp_path, include_skipped=True) == ["v"]


@pytest.mark.parametrize("file", ["optim_tracking_ehm.pkl", "id_share_params.pkl", "img_lmdb/data.mdb"])
def test_incomplete_directories(write, tmp_path: Path, file: str) -> None:
    (write("v", count=1) / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing"):
        TrackedVideo.open(tmp_path, "v")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not valid JSON"),
        ('{"v": {"frames_keys": ["a"', "not valid JSON"),
        ("[" * 100000, "not valid JSON"),
        ("[]", "found something else"),
        ("{}", "found something else"),
        ('{"v": []}', "found something else"),
        ('{"v": {}}', "frames_keys to be a list"),
        ('{"v": {"frames_keys": [1]}}', "frames_keys to be a list"),
        ('{"v": {"frames_num": 0, "frames_keys": []}}', "0 frames"),
        ('{"v": {"frames_keys": ["a"], "fps": -1}}', "fps between"),
        ('{"v": {"frames_keys": ["a"], "fps": NaN}}', "fps between"),
        ('{"v": {"frames_keys": ["a"], "fps": "25"}}', "fps between"),
        ('{"v": {"frames_keys": ["a"], "source_frames": [0, 1]}}', "expected 1 source_frames.*found 2"),
        ('{"v": {"frames_keys": ["a"], "source_frames": [1.5]}}', "frame numbers"),
    ],
)
def test_damaged_json(write, tmp_path: Path, text: str, match: str) -> None:
    (write("v", count=1) / "videos_info.json").write_text(text)
    with pytest.raises(InputError, match=f"(?s)videos_info.*{match}"):
        TrackedVideo.open(tmp_path, "v")


def test_unknown_entries_of_the_json_are_no_hindrance(write, tmp_path: Path) -> None:
    path = write("v", count=1) / "videos_info.json"
    info = json.loads(path.read_text())
    info["v"].update(frames_num=7, comment="x", fps=None, source_frames=None)
    path.write_text(json.dumps(info))
    assert TrackedVideo.open(tmp_path, "v").fps is None


def test_the_text_of_a_link_is_not_shown(tmp_path: Path) -> None:
    """`skipped.txt` of a folder that others can write to may be a link to any file."""
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "tracked" / "a").mkdir(parents=True)
    (tmp_path / "tracked" / "a" / "skipped.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="tracking of video 'a' failed") as caught:
        TrackedVideo.open(tmp_path / "tracked", "a")
    assert "hunter2" not in str(caught.value)
