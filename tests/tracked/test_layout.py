"""Finding tracked videos below a root."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest

from fakes import FakeModel, write_clip
from guava_aug import augment
from guava_aug.apps.estimate import amounts
from guava_aug.batch.config import RunConfig
from guava_aug.batch.fingerprint import input_signature
from guava_aug.errors import InputError, UsageError
from guava_aug.tracked import Timing, TrackedVideo, check_videos, layout, list_videos, scan_videos, tracked_path
from guava_aug.tracked.layout import look_alikes, real_names

NAMES = ["plain", "with space", "Zeichen_äöü_手話", "dots.in.name", "-dash", "a..b"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["flat", "nested", "merged"])
def test_every_layout_and_name(write, tmp_path: Path, name: str, kind: str) -> None:
    path = write(name, layout_kind=kind, count=2)
    video = TrackedVideo.open(tmp_path, name)
    assert (video.name, video.path, video.num_frames) == (name, path, 2)
    assert list_videos(tmp_path) == [name]


def test_a_large_list_of_videos_is_read_once_and_again_when_it_changes(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guava_aug.tracked.layout._KEPT_FROM", 1)
    for name in ("a", "b"):
        write(name, layout_kind="merged", count=2)
    reads, read = [], layout.read_text
    monkeypatch.setattr(layout, "read_text", lambda *a, **k: reads.append(a) or read(*a, **k))
    found = [layout.find_video(tmp_path, name).frame_keys for name in ("a", "b")]
    assert found == [("frame_000000", "frame_000001")] * 2
    assert len(reads) == 1
    write("c", layout_kind="merged", count=3)
    assert len(layout.find_video(tmp_path, "c").frame_keys) == 3
    next(tmp_path.rglob(layout.INFO)).write_text("no JSON")
    with pytest.raises(InputError, match="not valid JSON"):
        layout.find_video(tmp_path, "a")


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
        ('{"v": {"frames_keys": ["a"], "fps": "fast"}}', "fps between"),
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


@pytest.mark.parametrize(
    ("outer", "inner"),
    [("__k3_rgb", "k3_rgb"), ("news.2011-03-01", "news"), ("__a.b", "a"), ("__a.b", "a.b"), ("x.mp4", "x")],
)
def test_the_tracker_s_name_within_a_folder(write, tmp_path: Path, outer: str, inner: str) -> None:
    """The tracker cuts names at the first dot and leading __ off; the folder's name is the video's."""
    path = write(inner, count=2)
    (tmp_path / outer).mkdir()
    path.rename(tmp_path / outer / inner)
    assert scan_videos(tmp_path) == ([outer], [], [])
    video = TrackedVideo.open(tmp_path, outer)
    assert (video.name, video.path) == (outer, tmp_path / outer / inner)
    assert tracked_path(tmp_path, outer) == tmp_path / outer / inner
    assert input_signature(tmp_path, outer) is not None


def test_videos_one_level_deeper_are_named(write, tmp_path: Path) -> None:
    for split, name in (("train", "clip1"), ("train", "clip2"), ("test", "clip3")):
        path = write(name, count=1)
        (tmp_path / split).mkdir(exist_ok=True)
        path.rename(tmp_path / split / name)
    assert scan_videos(tmp_path) == ([], [], ["test", "train"])
    where = r"one level deeper, in test \(clip3\); train \(clip1, clip2\): give one of these folders as --tracked_root"
    with pytest.raises(UsageError, match=where):
        augment(tmp_path, tmp_path / "out", model=FakeModel())
    with pytest.raises(UsageError, match=where):
        amounts(RunConfig(tmp_path, tmp_path / "out"))
    with pytest.raises(InputError, match=r"train holds tracked videos one level deeper \(clip1, clip2\)"):
        TrackedVideo.open(tmp_path, "train")


@pytest.mark.parametrize("kind", ["flat", "nested", "merged"])
@pytest.mark.parametrize(("stored", "given"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_another_unicode_form(write, tmp_path: Path, kind: str, stored: str, given: str) -> None:
    """macOS writes NFD where keyboards write NFC; the folder's own name is the video's, so nothing is made twice."""
    there, asked = (unicodedata.normalize(form, "grüße_é") for form in (stored, given))
    write(there, count=1, layout_kind=kind)
    if there in os.listdir(tmp_path) or kind == "merged":
        assert TrackedVideo.open(tmp_path, asked).name == there
        assert real_names(tmp_path, ["x", asked, there]) == ["x", there]
    result = augment(tmp_path, tmp_path / "out", [asked], ["easy"], model=FakeModel())
    assert [view.video for view in result.views] == [there] and result.ok


def test_names_that_some_file_systems_cannot_tell_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert look_alikes(["Clip_A", "b", "clip_a", "CLIP_A"]) == [["Clip_A", "clip_a", "CLIP_A"]]
    assert look_alikes([unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]) != []
    assert look_alikes(["a", "b", "ab"]) == []
    for name in ("Clip_A", "clip_a"):
        write_clip(tmp_path, name, frames=1)
    assert augment(tmp_path, tmp_path / "out", None, ["easy"], model=FakeModel()).ok
    assert sum("names that differ only by case" in m and "Clip_A and clip_a" in m for m in caplog.messages) == 1
    assert all("differs only by case" in row.warnings[0] for row in check_videos(tmp_path, ["Clip_A", "clip_a"]))


def test_a_byte_order_mark(write, tmp_path: Path) -> None:
    info = write("v", count=1) / "videos_info.json"
    text = info.read_text()
    info.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert TrackedVideo.open(tmp_path, "v").num_frames == 1
    info.write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match="UTF-16 text; expected UTF-8"):
        TrackedVideo.open(tmp_path, "v")


def test_the_frame_index_map_of_a_fork(write, tmp_path: Path) -> None:
    path = write("v", count=3)
    keys = [f"frame_{i:06d}" for i in range(3)]
    map_ = path / "frame_index_map.json"
    map_.write_text(json.dumps({"frames": dict(zip(keys, [0, 2, 6], strict=True)), "frame_interval": 2}))
    assert TrackedVideo.open(tmp_path, "v").source_frames == [0, 2, 6]
    assert TrackedVideo.open(tmp_path, "v", timing=Timing(None, (7, 8, 9))).source_frames == [7, 8, 9]
    for text, words in (
        ("{", "not valid JSON"), ("[]", "expected {\"frames\""), ('{"frames": {"frame_000000": 1}}', "and 1 more of"),
        (json.dumps({"frames": dict.fromkeys(keys, 1.5)}), "frame numbers"),
    ):  # fmt: skip
        map_.write_text(text)
        with pytest.raises(InputError, match=f"frame_index_map.json.*{words}"):
            TrackedVideo.open(tmp_path, "v")
    info = json.loads((path / "videos_info.json").read_text())
    info["v"]["source_frames"] = [4, 5, 6]
    (path / "videos_info.json").write_text(json.dumps(info))
    assert TrackedVideo.open(tmp_path, "v").source_frames == [4, 5, 6]  # the map is not asked


def test_links_that_lead_nowhere(write, tmp_path: Path) -> None:
    """Each is a video that cannot be read, and not one that is not there; editors' hidden lock links are nobody's."""
    write("good", count=1)
    (tmp_path / "gone").symlink_to("/nowhere/clip")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / ".#notes").symlink_to("somebody@host.1234")
    inner = write("inner", count=1)
    for file in ("videos_info.json", "optim_tracking_ehm.pkl"):  # as of a git-annex that was not fetched
        (inner / file).unlink()
        (inner / file).symlink_to(f"../.git/annex/{file}")
    assert list_videos(tmp_path) == ["gone", "good", "inner", "loop"]
    rows = {row.name: row for row in check_videos(tmp_path)}
    assert [name for name, row in rows.items() if row.ok] == ["good"]
    assert "gone cannot be read: it is a link to /nowhere/clip, which is not there" in rows["gone"].problems[0]
    assert "loop cannot be read: Too many levels of symbolic links" in rows["loop"].problems[0]
    assert "it is a link to ../.git/annex/videos_info.json, which is not there" in rows["inner"].problems[0]
    result = augment(tmp_path, tmp_path / "out", None, ["easy"], model=FakeModel(), retries=0)
    assert {view.video for view in result.failed} == {"gone", "loop", "inner"} and len(result.views) == 4


@pytest.mark.parametrize(
    ("what", "code"),
    [("b", errno.EIO), ("b", errno.ESTALE), ("b", errno.EACCES), ("b/b", errno.EIO), ("b/videos_info.json", errno.EIO)],
)
def test_folders_that_cannot_be_looked_at(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: int
) -> None:
    for name in ("a", "b", "c"):
        write(name, count=1)
    bad = tmp_path / what

    def fails(real):
        def look(path=".", *args, **options):
            if not isinstance(path, int) and (Path(path) == bad or bad in Path(path).parents):
                raise OSError(code, os.strerror(code), os.fspath(path))
            return real(path, *args, **options)

        return look

    for name in ("stat", "lstat", "scandir", "listdir", "open"):
        monkeypatch.setattr(os, name, fails(getattr(os, name)))
    assert list_videos(tmp_path) == ["a", "b", "c"]
    a, b, c = check_videos(tmp_path)
    assert a.ok and c.ok and f"{bad}" in b.problems[0] and f"cannot be read: {os.strerror(code)}" in b.problems[0]
    result = augment(tmp_path, tmp_path / "out", None, ["easy"], model=FakeModel(), retries=0)
    assert [view.video for view in result.failed] == ["b"] and len(result.views) == 3
    monkeypatch.undo()  # the server answers again
    again = augment(tmp_path, tmp_path / "out", None, ["easy"], model=FakeModel())
    assert again.ok and [view.status for view in again.views] == ["skipped", "success", "skipped"]


def test_a_root_that_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stat(path, **options):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(InputError, match=f"--tracked_root {tmp_path} cannot be read: {os.strerror(errno.ESTALE)}"):
        scan_videos(tmp_path)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs another user")
def test_the_folder_of_another_user() -> None:
    """For root all folders are open, so a process without its rights looks."""
    code = (
        "import os, sys, guava_aug.tracked.layout as layout\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "print(layout.scan_videos(sys.argv[1]).tracked)\n"
        "try: layout.find_video(sys.argv[1], 'b')\n"
        "except Exception as e: print(type(e).__name__, e)\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        root = Path(folder)
        for name in ("a", "b", "lost+found"):
            write_clip(root, name, frames=1)
        root.chmod(0o755)
        for name in ("b", "lost+found"):
            (root / name).chmod(0o700)
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("['a', 'b']\nInputError video 'b': "), done.stdout + done.stderr
    assert "cannot be read: Permission denied" in done.stdout


def test_the_text_of_a_link_is_not_shown(tmp_path: Path) -> None:
    """`skipped.txt` of a folder that others can write to may be a link to any file."""
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "tracked" / "a").mkdir(parents=True)
    (tmp_path / "tracked" / "a" / "skipped.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="tracking of video 'a' failed") as caught:
        TrackedVideo.open(tmp_path / "tracked", "a")
    assert "hunter2" not in str(caught.value)
