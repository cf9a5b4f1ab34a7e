"""augmentation_params.json: the original's form, made from the journals."""

import json
import shutil
from pathlib import Path

import pytest

from guava_aug.batch.journal.journal import FOLDER
from guava_aug.batch.journal.params_log import read_params, write_params
from guava_aug.batch.journal.run_log import RunLog
from guava_aug.batch.results import ViewRecord
from guava_aug.errors import OutputError

CAMERA = {"seed": 7, "yaw": 0.1, "pitch": -0.05, "zoom": 1.0354920632825135}
WHERE = {"tracked_path": "/data/clip", "output_dir": "/out/easy/clip"}


def content(root, name="augmentation_params.json"):
    return json.loads((root / name).read_text(encoding="utf-8"))


def names(root):
    return sorted(p.name for p in root.iterdir() if not p.name.startswith("."))


def tell(log, video="clip", label="easy", status="success", **fields):
    log.ended([ViewRecord.from_json({"video": video, "view": label, "status": status, **CAMERA, **fields})])


def test_an_entry_has_the_originals_keys_in_the_originals_order(tmp_path):
    with RunLog(tmp_path) as log:
        tell(log, render_time=1.5, frames=4, **WHERE, bytes=100, fingerprint="ab", made_with={"crf": 10}, stage=None)
    entry = content(tmp_path)["clip"]["easy"]
    assert list(entry) == [
        "video_name", "difficulty", "seed", "yaw", "pitch", "zoom", "status", "tracked_path", "output_dir",
        "render_time", "frames",
    ]  # fmt: skip
    assert (entry["video_name"], entry["difficulty"], entry["zoom"]) == ("clip", "easy", CAMERA["zoom"])
    assert names(tmp_path) == ["augmentation_params.json"]


def test_the_text_is_what_json_writes_with_an_indent_of_four(tmp_path):
    entries = {"b": {"hard": {"a": 1, "ü": [1, 2]}, "easy": {"x": None}}, "a": {}}
    write_params(tmp_path / "log.json", entries)
    text = (tmp_path / "log.json").read_text(encoding="utf-8")
    in_order = {"a": {}, "b": {"easy": {"x": None}, "hard": {"a": 1, "ü": "L"}}}
    assert text == json.dumps(in_order, indent=4, ensure_ascii=False).replace('"L"', "[1, 2]") + "\n"
    write_params(tmp_path / "log.json", {})
    assert read_params(tmp_path / "log.json") == {}


def test_videos_and_views_have_one_order_whoever_came_first(tmp_path):
    with RunLog(tmp_path) as log:
        for video, label in (("b", "hard"), ("b", "easy_010"), ("b", "easy"), ("a", "medium"), ("b", "easy_002")):
            tell(log, video, label)
    assert list(content(tmp_path)) == ["a", "b"]
    assert list(content(tmp_path)["b"]) == ["easy", "easy_002", "easy_010", "hard"]


def test_further_views_keep_the_plain_difficulty(tmp_path):
    with RunLog(tmp_path) as log:
        tell(log, label="hard_012")
    entry = content(tmp_path)["clip"]["hard_012"]
    assert (entry["difficulty"], entry["view_index"]) == ("hard", 12)


def test_the_json_is_there_after_every_view(tmp_path):
    log = RunLog(tmp_path)
    for i in range(5):
        tell(log, f"clip{i}")
        assert len(content(tmp_path)) == i + 1


def test_a_large_log_waits_but_the_journal_has_everything(tmp_path, monkeypatch):
    monkeypatch.setattr("guava_aug.batch.journal.run_log.SMALL", 0)
    monkeypatch.setattr("guava_aug.batch.journal.run_log.REWRITE_SHARE", 1e-9)
    log = RunLog(tmp_path)
    for i in range(4):
        tell(log, f"clip{i}")
    assert list(content(tmp_path)) == ["clip0"]
    again = RunLog(tmp_path)  # by whoever comes after a kill
    assert again.get("clip3", "easy")["yaw"] == CAMERA["yaw"]
    log.close()
    assert list(content(tmp_path)) == ["clip0", "clip1", "clip2", "clip3"]


def test_a_skipped_view_keeps_what_it_was_rendered_with(tmp_path):
    with RunLog(tmp_path) as log:
        tell(log, render_time=3.0, **WHERE)
        tell(log, "other")
    with RunLog(tmp_path) as log:
        log.skipped({"clip": ["easy"]})
    entry = content(tmp_path)["clip"]["easy"]
    assert (entry["status"], entry["render_time"]) == ("skipped", 3.0)
    assert {k: entry[k] for k in CAMERA} == CAMERA
    assert content(tmp_path)["other"]["easy"]["status"] == "success"


def test_skipped_again_is_not_told_again(tmp_path):
    with RunLog(tmp_path) as log:
        tell(log)
    for _ in range(2):
        with RunLog(tmp_path) as log:
            log.skipped({"clip": ["easy"]})
    assert len(list((tmp_path / FOLDER).iterdir())) == 2
    path = tmp_path / "augmentation_params.json"
    before = path.stat().st_ino, path.stat().st_mtime_ns
    with RunLog(tmp_path) as log:
        log.skipped({"clip": ["easy"]})
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_error_and_render_time_belong_to_their_status(tmp_path):
    log = RunLog(tmp_path)
    tell(log, status="failed", error="frame 3: NaN")
    assert log.get("clip", "easy")["error"] == "frame 3: NaN"
    tell(log, render_time=2.0)
    assert "error" not in log.get("clip", "easy")
    tell(log, status="failed", error="again")
    assert "render_time" not in log.get("clip", "easy")
    assert content(tmp_path)["clip"]["easy"]["error"] == "again"


def test_part_logs_are_apart_but_known_to_each_other(tmp_path):
    with RunLog(tmp_path, "3") as log:
        tell(log)
    assert names(tmp_path) == ["augmentation_params_part_3.json"]
    with RunLog(tmp_path, "4") as log:
        assert log.get("clip", "easy")["yaw"] == CAMERA["yaw"]
        log.skipped({"clip": ["easy"]})
    assert content(tmp_path, "augmentation_params_part_4.json")["clip"]["easy"]["yaw"] == CAMERA["yaw"]
    assert content(tmp_path, "augmentation_params_part_4.json")["clip"]["easy"]["status"] == "skipped"
    assert content(tmp_path, "augmentation_params_part_3.json")["clip"]["easy"]["status"] == "success"
    with RunLog(tmp_path, "3") as log:
        tell(log, "more")
    assert content(tmp_path, "augmentation_params_part_3.json")["clip"]["easy"]["status"] == "success"


def test_get_gives_a_copy(tmp_path):
    log = RunLog(tmp_path)
    tell(log)
    log.get("clip", "easy")["yaw"] = 99
    assert log.get("clip", "easy")["yaw"] == CAMERA["yaw"]
    assert log.get("clip", "hard") is None


def test_the_originals_log_is_read_and_stays(tmp_path):
    original = {"clip": {"easy": {"video_name": "clip", "difficulty": "easy", **CAMERA, "status": "success", "x": 1}}}
    (tmp_path / "augmentation_params.json").write_text(json.dumps(original, indent=2))
    with RunLog(tmp_path) as log:
        assert log.get("clip", "easy")["seed"] == 7
        tell(log, "clip2")
    assert content(tmp_path)["clip"] == original["clip"]
    with RunLog(tmp_path) as log:
        tell(log, "clip", status="skipped")
    assert content(tmp_path)["clip"]["easy"]["x"] == 1


def test_a_log_whose_journals_are_lost_stays(tmp_path):
    with RunLog(tmp_path) as log:
        tell(log)
    shutil.rmtree(tmp_path / ".guava-aug")
    with RunLog(tmp_path) as log:
        tell(log, "clip2")
    assert set(content(tmp_path)) == {"clip", "clip2"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"clip": 3}', '{"clip": {"easy": 3}}', "\udcff"])
def test_a_damaged_log_is_an_error_and_stays_as_it_is(tmp_path, text):
    path = tmp_path / "augmentation_params.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(OutputError, match="move it away"):
        RunLog(tmp_path)
    assert path.read_bytes() == before


def test_a_damaged_log_of_another_part_does_not_stop_this_one(tmp_path, caplog):
    (tmp_path / "augmentation_params_part_1.json").write_text("{")
    with RunLog(tmp_path, "2") as log:
        tell(log)
    assert "augmentation_params_part_1.json" in caplog.text


def test_odd_names(tmp_path):
    with RunLog(tmp_path) as log:
        tell(log, 'dödö "x"\n', tracked_path=Path("a"))
    entry = content(tmp_path)['dödö "x"\n']["easy"]
    assert entry["tracked_path"] == "a"
