"""The parameter log: what it says, and that no finished view is ever lost from it."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from guava_aug.errors import OutputError
from guava_aug.output import params_log
from guava_aug.output.params_log import ParamsLog, read_log

CAMERA = {"seed": 7, "yaw": 0.1, "pitch": -0.05, "zoom": 1.0354920632825135}
WHERE = {"tracked_path": "/data/clip", "output_dir": "/out/easy/clip"}


def content(root, name="augmentation_params.json"):
    return json.loads((root / name).read_text(encoding="utf-8"))


def names(root):
    return sorted(p.name for p in root.iterdir())


@pytest.fixture
def slow_rewrites(monkeypatch):
    """As if the log were huge: after the first time the JSON is not rewritten before `close`."""
    monkeypatch.setattr(params_log, "SMALL", 0)
    monkeypatch.setattr(params_log, "REWRITE_RATE", 1e-6)


def test_an_entry_has_the_originals_keys_in_the_originals_order(tmp_path):
    with ParamsLog.open(tmp_path) as log:
        log.record("clip", "easy", render_time=1.5, **WHERE, status="success", **CAMERA, background="plate")
    entry = content(tmp_path)["clip"]["easy"]
    assert list(entry) == [
        "video_name", "difficulty", "seed", "yaw", "pitch", "zoom", "status", "tracked_path", "output_dir",
        "render_time", "background",
    ]  # fmt: skip
    assert (entry["video_name"], entry["difficulty"], entry["zoom"]) == ("clip", "easy", CAMERA["zoom"])
    assert names(tmp_path) == ["augmentation_params.json"]


def test_further_views_keep_the_plain_difficulty(tmp_path):
    with ParamsLog.open(tmp_path) as log:
        log.record("clip", "hard_012", status="success", **CAMERA)
    entry = content(tmp_path)["clip"]["hard_012"]
    assert (entry["difficulty"], entry["view_index"]) == ("hard", 12)


def test_the_json_is_there_after_every_view(tmp_path):
    log = ParamsLog.open(tmp_path)
    for i in range(5):
        log.record(f"clip{i}", "easy", status="success", **CAMERA)
        assert len(content(tmp_path)) == i + 1
        assert names(tmp_path) == ["augmentation_params.json"]


def test_a_skipped_view_keeps_what_it_was_rendered_with(tmp_path):
    with ParamsLog.open(tmp_path) as log:
        log.record("clip", "easy", status="success", render_time=3.0, **CAMERA, **WHERE)
        log.record("other", "easy", status="success", **CAMERA)
    with ParamsLog.open(tmp_path) as log:
        log.record("clip", "easy", status="skipped")
    entry = content(tmp_path)["clip"]["easy"]
    assert entry["status"] == "skipped"
    assert {k: entry[k] for k in CAMERA} == CAMERA
    assert content(tmp_path)["other"]["easy"]["status"] == "success"


def test_error_and_render_time_belong_to_their_status(tmp_path):
    with ParamsLog.open(tmp_path) as log:
        log.record("clip", "easy", status="failed", error="frame 3: NaN", **CAMERA)
        assert log.get("clip", "easy")["error"] == "frame 3: NaN"
        log.record("clip", "easy", status="success", render_time=2.0)
        assert "error" not in log.get("clip", "easy")
        log.record("clip", "easy", status="failed", error="again")
        assert "render_time" not in log.get("clip", "easy")


def test_part_logs_are_apart_but_known_to_each_other(tmp_path):
    with ParamsLog.open(tmp_path, 3) as log:
        log.record("clip", "easy", status="success", **CAMERA)
    assert names(tmp_path) == ["augmentation_params_part_3.json"]
    with ParamsLog.open(tmp_path, 4) as log:
        assert log.get("clip", "easy")["yaw"] == CAMERA["yaw"]
        assert list(log.items()) == []
        log.record("clip", "easy", status="skipped")
    assert content(tmp_path, "augmentation_params_part_4.json")["clip"]["easy"]["yaw"] == CAMERA["yaw"]
    assert content(tmp_path, "augmentation_params_part_3.json")["clip"]["easy"]["status"] == "success"


def test_get_gives_a_copy(tmp_path):
    log = ParamsLog.open(tmp_path)
    log.record("clip", "easy", status="success", **CAMERA)
    log.get("clip", "easy")["yaw"] = 99
    assert log.get("clip", "easy")["yaw"] == CAMERA["yaw"]
    assert log.get("clip", "hard") is None


def test_the_originals_log_is_read(tmp_path):
    original = {"clip": {"easy": {"video_name": "clip", "difficulty": "easy", **CAMERA, "status": "success"}}}
    (tmp_path / "augmentation_params.json").write_text(json.dumps(original, indent=2))
    with ParamsLog.open(tmp_path) as log:
        assert log.get("clip", "easy")["seed"] == 7
        log.record("clip2", "easy", status="success")
    assert content(tmp_path)["clip"] == original["clip"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"clip": 3}', '{"clip": {"easy": 3}}', "\udcff"])
def test_a_damaged_log_is_an_error_and_stays_as_it_is(tmp_path, text):
    path = tmp_path / "augmentation_params.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = path.read_bytes()
    with pytest.raises(OutputError, match="move it away"):
        ParamsLog.open(tmp_path)
    assert path.read_bytes() == before


def test_a_damaged_log_of_another_part_does_not_stop_this_one(tmp_path, caplog):
    (tmp_path / "augmentation_params_part_1.json").write_text("{")
    with ParamsLog.open(tmp_path, 2) as log:
        log.record("clip", "easy", status="success", **CAMERA)
    assert "augmentation_params_part_1.json" in caplog.text


def test_odd_values(tmp_path):
    with ParamsLog.open(tmp_path) as log:
        log.record(
            'dödö "x"\n', "easy", status="success", seed=np.int64(3), yaw=np.float32(0.5), tracked_path=Path("a")
        )
        before = (tmp_path / "augmentation_params.json").read_bytes()
        with pytest.raises(ValueError):
            log.record("clip", "easy", status="success", yaw=float("nan"))
        with pytest.raises(ValueError, match="status"):
            log.record("clip", "easy", status="done")
        assert (tmp_path / "augmentation_params.json").read_bytes() == before
    entry = content(tmp_path)['dödö "x"\n']["easy"]
    assert (entry["seed"], entry["yaw"], entry["tracked_path"]) == (3, 0.5, "a")


def test_unwritable_places_are_reported(tmp_path):
    log = ParamsLog.open(tmp_path / "folder")
    (tmp_path / "folder").write_bytes(b"")  # a file where the folder should be made
    with pytest.raises(OutputError, match="cannot be written"):
        log.record("clip", "easy", status="success")


def test_a_large_log_waits_but_the_journal_has_everything(tmp_path, slow_rewrites):
    log = ParamsLog.open(tmp_path)
    for i in range(4):
        log.record(f"clip{i}", "easy", status="success", **CAMERA)
    assert list(content(tmp_path)) == ["clip0"]
    assert list(read_log(tmp_path / "augmentation_params.json")) == ["clip0", "clip1", "clip2", "clip3"]
    log.close()
    assert list(content(tmp_path)) == ["clip0", "clip1", "clip2", "clip3"]
    assert names(tmp_path) == ["augmentation_params.json"]


def test_a_journal_cut_short_loses_only_the_torn_line(tmp_path, slow_rewrites):
    log = ParamsLog.open(tmp_path)
    for i in range(4):
        log.record(f"clip{i}", "easy", status="success", **CAMERA)
    journal = tmp_path / ".augmentation_params.json.journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    again = ParamsLog.open(tmp_path)
    assert [video for video, _, _ in again.items()] == ["clip0", "clip1", "clip2"]
    again.record("clip9", "easy", status="success", **CAMERA)
    again.close()
    assert list(content(tmp_path)) == ["clip0", "clip1", "clip2", "clip9"]


WORKER = """
import sys
from guava_aug.output import params_log
from guava_aug.output.params_log import ParamsLog
if sys.argv[3] == "slow":
    params_log.SMALL, params_log.REWRITE_RATE = 0, 1e-6
log = ParamsLog.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[4])):
    log.record(f"{sys.argv[2]}{i}", "easy", status="success", seed=i)
    print(i, flush=True)
log.close()
"""


def worker(root, name, pace, count):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), str(root), name, pace, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def start(child):
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("go\n")
    child.stdin.flush()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("pace", ["fast", "slow"])
def test_a_kill_loses_no_recorded_view(tmp_path, pace):
    child = worker(tmp_path, "clip", pace, 100_000)
    start(child)
    for _ in range(30):
        last = int(child.stdout.readline())
    child.kill()
    last = max([last, *(int(line) for line in child.communicate()[0].splitlines() if line.isdigit())])
    with ParamsLog.open(tmp_path) as log:
        assert {f"clip{i}" for i in range(last)} <= {video for video, _, _ in log.items()}
    assert len(content(tmp_path)) >= last
    left = [n for n in names(tmp_path) if n != "augmentation_params.json"]
    assert all(".tmp-" in n for n in left)  # a kill may leave the temporary file of a rewrite


@pytest.mark.skipif(sys.platform == "win32", reason="needs file locks")
@pytest.mark.parametrize("pace", ["fast", "slow"])
def test_two_processes_can_share_a_log(tmp_path, pace):
    children = [worker(tmp_path, name, pace, 40) for name in ("a", "b")]
    for child in children:
        start(child)
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0
    assert set(content(tmp_path)) == {f"{name}{i}" for name in "ab" for i in range(40)}
    assert names(tmp_path) == ["augmentation_params.json"]


def test_unchanged_entries_are_not_written_again(tmp_path):
    with ParamsLog.open(tmp_path) as log:
        log.record("clip", "easy", status="skipped", **CAMERA)
    path = tmp_path / "augmentation_params.json"
    before = path.stat().st_ino, path.stat().st_mtime_ns
    with ParamsLog.open(tmp_path) as log:
        log.record_many([("clip", "easy", {"status": "skipped"})])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before
