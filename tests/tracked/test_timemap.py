"""Time maps: when each frame was."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from guava_aug.errors import InputError
from guava_aug.tracked import Timing, load_time_map, warn_unknown_videos


def _map(tmp_path: Path, name: str, text: str) -> dict[str, Timing]:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_time_map(path)


def test_json(tmp_path: Path) -> None:
    text = '{"a b": {"fps": 25, "source_frames": [0, 2]}, "手": {"fps": 29.97}, "c": {"source_frames": null}}'
    assert _map(tmp_path, "t.json", text) == {
        "a b": Timing(25.0, (0, 2)), "手": Timing(29.97, None), "c": Timing(None, None),
    }  # fmt: skip


def test_csv(tmp_path: Path) -> None:
    text = '\ufeffvideo,fps,source_frames\na b,25,0 2\n手,29.97,\n"c,d",,5\n'
    assert _map(tmp_path, "t.csv", text) == {
        "a b": Timing(25.0, (0, 2)), "手": Timing(29.97, None), "c,d": Timing(None, (5,)),
    }  # fmt: skip
    assert _map(tmp_path, "t.csv", "video,fps\na,10\n") == {"a": Timing(10.0, None)}


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("t.json", "{", "not valid JSON"),
        ("t.json", "[]", "expected {video.*found a list of 0"),
        ("t.json", "video,fps\na,25\n", r"not valid JSON.*ends in \.csv"),
        ("t.json", '{"v": {"fps": %s}}' % ("1" + "0" * 400), "'v': expected fps between .* a number of 401 digits"),
        ("t.json", '{"v": {"source_frames": [%s]}}' % ("1" + "0" * 400), "'v'.*frame numbers"),
        ("t.json", '{"v": ' + "[" * 900 + "]" * 900 + "}", "'v': expected fps and source_frames, found a list of 1"),
        ("t.csv", '{"v": {"fps": 25}}', r"holds JSON, not CSV.*\.json"),
        ("t.csv", "video;fps\na;25\n", "found 'video;fps'. Separate the columns by commas, not by ';'"),
        ("t.csv", "fps,video\n25\n", "line 2: the column video is empty"),
        ("t.txt", "video,fps\na,25\n", "looks like CSV"),
        ("t.json", '{"v": 25}', "'v': expected fps"),
        ("t.json", '{"v": {"rate": 25}}', "'v': expected fps"),
        ("t.json", '{"v": {"fps": 0}}', "'v': expected fps between"),
        ("t.json", '{"v": {"fps": true}}', "'v': expected fps between"),
        ("t.json", '{"v": {"source_frames": [-1]}}', "'v'.*frame numbers"),
        ("t.json", '{"v": {"source_frames": 5}}', "'v'.*list"),
        ("t.csv", "name,fps\na,1\n", "columns"),
        ("t.csv", "", "columns"),
        (
            "t.csv",
            "video,fps\na,fast\n",
            "t.csv, line 2, video 'a': expected .* a number such as 25, found 'fast'",
        ),
        ("t.csv", "video,fps\na,nan\n", "'a'.*fps"),
        ("t.csv", "video,fps\na,1\na,2\n", "line 3.*twice"),
        ("t.csv", "video,source_frames\na,1 x\n", "line 2.*expected source_frames to be whole numbers.*'1 x'"),
        ("t.csv", "video,fps\na,1,2,3\n", "line 2|'a'"),
        ("t.txt", "x", "json or .csv"),
    ],
)
def test_refused(tmp_path: Path, name: str, text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        _map(tmp_path, name, text)
    with pytest.raises(InputError, match="cannot be read"):
        load_time_map(tmp_path / "absent.json")


@pytest.mark.parametrize("kind", ["flat", "nested", "merged"])
def test_names_that_are_no_videos_are_told(write, tmp_path: Path, kind: str, caplog) -> None:
    write("a", count=1, layout_kind=kind)
    write("b", count=1, layout_kind=kind)
    nothing = Timing(None, None)
    warn_unknown_videos({"a": nothing, "b": nothing}, Path("map.csv"), tmp_path)
    assert not caplog.messages
    warn_unknown_videos({"a": nothing, **{f"z{i}": nothing for i in range(5)}}, Path("map.csv"), tmp_path)
    assert caplog.messages == [f"time map map.csv: no such video below {tmp_path}: z0, z1, z2 and 2 more"]


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_bytes('{"v": {"fps": 25}}'.encode("utf-16"))
    with pytest.raises(InputError, match="is UTF-16 text; expected UTF-8"):
        load_time_map(path)


def test_the_frame_numbers_of_a_long_video(tmp_path: Path) -> None:
    """More than the 131,072 characters that a field of CSV has by default."""
    numbers = tuple(range(30_000))
    text = f"video,source_frames\na,{' '.join(map(str, numbers))}\n"
    assert _map(tmp_path, "t.csv", text) == {"a": Timing(None, numbers)}


def test_names_in_another_unicode_form_are_found(write, tmp_path: Path, caplog) -> None:
    """macOS writes NFD where keyboards write NFC."""
    here, there = (unicodedata.normalize(form, "grüße") for form in ("NFC", "NFD"))
    found = _map(tmp_path, "t.csv", f"video,fps\n{here},10\n")
    assert found.get(there) == found.get(here) == Timing(10.0, None) and found.get("x") is None
    (tmp_path / "root" / there).mkdir(parents=True)
    warn_unknown_videos(found, tmp_path / "t.csv", tmp_path / "root")
    assert not caplog.messages
