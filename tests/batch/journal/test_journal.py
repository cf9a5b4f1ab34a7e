"""Journals: every line that was told is read by everybody, in one order, whatever was cut off."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from guava_aug.batch.journal.history import History
from guava_aug.batch.journal.journal import FOLDER, Journal, Reader
from guava_aug.errors import DiskFullError, OutputError

CAMERA = {"seed": 7, "yaw": 0.1, "pitch": -0.05, "zoom": 1.0}


def view(status: str, video: str = "clip", label: str = "easy", **more) -> tuple[str, dict]:
    return "view", {"video": video, "view": label, "status": status, **CAMERA, **more}


def files(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob("*.jsonl"))


def test_a_journal_is_a_file_of_its_own_that_begins_with_its_writer(tmp_path: Path):
    journals = [Journal(tmp_path, {"part": "3"}) for _ in range(2)]
    for journal in journals:
        assert not journal.append_many([])
        assert journal.path is None  # nothing is written before there is something to say
    for journal in journals:
        journal.append("used", {"gpu": "x"})
    assert len(files(tmp_path)) == 2
    for path in files(tmp_path):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(line["kind"], line["n"]) for line in lines] == [("run", 0), ("used", 1)]
        host, pid, start = path.stem.rsplit("-", 2)
        assert (host, int(pid), lines[0]["part"]) == (lines[0]["host"], lines[0]["pid"], "3")
        assert abs(int(start) / 1000 - lines[0]["t"]) < 10


def test_time_never_goes_back_and_begins_after_what_was_read(tmp_path: Path):
    first = Journal(tmp_path, {}, after=4e9)  # by a clock that is far ahead
    keys = [first.append(*view("success"), at=at).key for at in (None, 1.0, 2.0)]
    assert keys == sorted(keys) and keys[0][0] > 4e9
    history = History(tmp_path)
    second = Journal(tmp_path, {}, after=history.latest)
    second.append(*view("failed", error="later, by a clock that is right"))
    found = History(tmp_path).get("clip", "easy")
    assert found is not None and found.status == "failed"


def test_the_union_does_not_depend_on_the_order_of_reading(tmp_path: Path):
    rng = random.Random(0)
    journals = [Journal(tmp_path, {"part": str(i % 2)}) for i in range(4)]
    for _ in range(80):
        video, label = rng.choice("ab"), rng.choice(["easy", "hard"])
        rows = [
            view(rng.choice(["success", "failed", "skipped"]), video, label, frames=rng.randrange(9)),
            ("plan", {"views": {video: [label]}, "overwrite": rng.random() < 0.3}),
            ("skipped", {"views": {video: [label]}}),
            ("input", {"video": video, "input": [str(rng.random()), "d", None]}),
        ]
        rng.choice(journals).append(*rng.choice(rows), at=1000.0 + rng.randrange(50))
    lines: dict[str, list] = {}
    for line in Reader(tmp_path).new_lines():
        lines.setdefault(line.worker, []).append(line)

    def state(order: list[str]) -> object:
        history = History(tmp_path / "nowhere")
        for name in order:
            for line in lines[name]:
                history.add(line)
        return {(video, label): (view, view.status) for video, label, view in history.items()}, history.inputs

    want = state(list(lines))
    for _ in range(10):
        order = list(lines)
        rng.shuffle(order)
        assert state(order) == want


def test_a_torn_line_is_passed_over_and_costs_only_itself(tmp_path: Path):
    journal = Journal(tmp_path, {})
    for i in range(4):
        journal.append(*view("success", f"clip{i}"))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines(keepends=True)[-1]) - 1):
        path.write_bytes(whole[:-cut])
        assert set(History(tmp_path).views) == {"clip0", "clip1", "clip2"}
    path.write_bytes(
        whole.replace(b'"clip1"', b'"cli\xff', 1) + b"\0\0\0\n[1]\nnull\n" + b'{"t":1,"n":2,"kind":"view"}\n'
    )
    assert set(History(tmp_path).views) == {"clip0", "clip2", "clip3"}


def test_after_a_full_disk_the_journal_goes_on_with_a_new_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import os

    journal = Journal(tmp_path, {})
    journal.append(*view("success", "a"))
    real = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) > 20:
            return real(handle, data[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", lambda handle, data: full(handle, data[:21] if len(data) > 30 else data[:9]))
    with pytest.raises(DiskFullError, match="No space left"):
        journal.append(*view("success", "b"))
    monkeypatch.setattr(os, "write", real)
    journal.append(*view("success", "c"))
    assert set(History(tmp_path).views) == {"a", "c"}


def test_a_line_that_is_still_being_written_comes_with_the_next_refresh(tmp_path: Path):
    journal = Journal(tmp_path, {})
    journal.append(*view("success", "a"))
    (path,) = files(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"t":9e9,"n":9,"kind":"skipped","views":')
    history = History(tmp_path)
    assert set(history.views) == {"a"}
    assert not history.refresh() and set(history.views) == {"a"}
    with path.open("ab") as file:
        file.write(b'{"b":["easy"]}}\n')
    assert not history.refresh()
    assert set(history.views) == {"a", "b"}
    Journal(tmp_path, {}).append("end", {"why": ""})
    assert history.refresh()  # somebody has ended
    assert not history.refresh()


def test_odd_values(tmp_path: Path):
    journal = Journal(tmp_path, {"path": Path("a/b")})
    name = 'dödö "x"\n\udcff'
    line = journal.append(*view("success", name, seed=np.int64(3), size=(4, 5)))
    assert (line.fields["seed"], line.fields["size"]) == (3, [4, 5])
    with pytest.raises(ValueError):
        journal.append(*view("success", yaw=float("nan")))
    found = History(tmp_path)
    assert list(found.views) == [name]
    assert found.get(name, "easy").told == line


def test_unwritable_places_are_reported(tmp_path: Path):
    (tmp_path / ".guava-aug").write_bytes(b"")  # a file where the folder should be made
    with pytest.raises(OutputError, match="journal cannot be written"):
        Journal(tmp_path, {}).append("used")


WORKER = """
import sys
from pathlib import Path
from guava_aug.batch.journal.run_log import RunLog
from guava_aug.batch.results import ViewRecord
log = RunLog(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[3])):
    camera = {"seed": i, "yaw": 0.0, "pitch": 0.0, "zoom": 1.0}
    log.ended([ViewRecord(f"{sys.argv[2]}{i}", "easy", "success", camera)])
    print(i, flush=True)
log.close()
"""


def worker(root: Path, name: str, count: int) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER), str(root), name, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None and child.stdin is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("go\n")
    child.stdin.flush()
    return child


def test_a_kill_loses_no_view_that_was_told(tmp_path: Path):
    child = worker(tmp_path, "clip", 100_000)
    assert child.stdout is not None
    for _ in range(30):
        last = int(child.stdout.readline())
    child.kill()
    last = max([last, *(int(line) for line in child.communicate()[0].splitlines() if line.isdigit())])
    assert {f"clip{i}" for i in range(last + 1)} <= set(History(tmp_path).views)


def test_processes_share_a_log_without_locks(tmp_path: Path):
    children = [worker(tmp_path, name, 40) for name in "abc"]
    for child in children:
        child.communicate(timeout=300)
        assert child.returncode == 0
    content = json.loads((tmp_path / "augmentation_params.json").read_text())
    assert set(content) == {f"{name}{i}" for name in "abc" for i in range(40)}
    assert {p.name for p in tmp_path.iterdir()} == {"augmentation_params.json", ".guava-aug"}


def test_a_view_that_was_begun_is_left_until_it_ends(tmp_path: Path):
    journal = Journal(tmp_path, {})
    journal.append("plan", {"views": {"clip": ["easy", "hard"]}})
    journal.append(*view("success"))
    history = History(tmp_path)
    assert [history.get("clip", label).status for label in ("easy", "hard")] == ["done", "left"]
    journal.append("plan", {"views": {"clip": ["easy"]}, "overwrite": True})
    history.refresh()
    assert history.get("clip", "easy").is_withdrawn
    assert history.get("clip", "easy").status == "left"


def test_failures_are_counted_by_run_and_forgotten_when_it_is_made(tmp_path: Path):
    for count in range(1, 4):
        journal = Journal(tmp_path, {})
        journal.append_many([view("failed", error="x"), view("failed", error="x")])
        assert History(tmp_path).get("clip", "easy").failed_runs == count
    journal.append(*view("success"))
    assert History(tmp_path).get("clip", "easy").failed_runs == 0
