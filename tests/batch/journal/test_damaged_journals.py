"""Journals with damaged bytes: a line costs itself at most, its time not even that; nothing wrong is written."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from fakes import FakeModel, write_clip
from guava_aug import augment
from guava_aug.batch.journal.history import History
from guava_aug.batch.journal.journal import AHEAD, FOLDER, Journal
from guava_aug.batch.journal.params_log import read_params
from guava_aug.batch.journal.run_log import RunLog, merge
from guava_aug.batch.results import ViewRecord
from guava_aug.batch.retry import failed_runs
from guava_aug.batch.status import run_status
from guava_aug.cli import main
from guava_aug.errors import OutputError
from guava_aug.output.metadata import read_sidecar, tag_of_file
from guava_aug.runtime.plain_json import is_plain, loads

CAMERA = {"seed": 7, "yaw": 0.1, "pitch": -0.05, "zoom": 1.0}


def note(log: RunLog, video: str, status: str = "success", **more) -> None:
    line = {"video": video, "view": "easy", "status": status, "frames": 2, **CAMERA, **more}
    log.ended([ViewRecord.from_json(line)])


def journals(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob("*.jsonl"))


def in_last_line(pattern: bytes, by: bytes) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        start = data.rfind(b'{"t":')
        changed = re.sub(pattern, by, data[start:], count=1)
        assert changed != data[start:]
        return data[:start] + changed

    return edit


# what happens to the last line ("end") or to the line of the failure, and how many lines are lost by it
TIMES = {
    "point to e": (in_last_line(rb'("t":\d+)\.', rb"\1e"), 0),
    "point to 9": (in_last_line(rb'("t":\d+)\.', rb"\g<1>9"), 0),
    "year 2255": (in_last_line(rb'"t":1', b'"t":9'), 0),
    "year 1997": (in_last_line(rb'"t":1\d', b'"t":08'), 0),
    "year 2020": (in_last_line(rb'"t":\d+', b'"t":1577836801'), 0),
    "NaN": (in_last_line(rb'"t":[\d.]+', b'"t":NaN'), 0),
    "-Infinity": (in_last_line(rb'"t":[\d.]+', b'"t":-Infinity'), 0),
    "10^400": (in_last_line(rb'"t":[\d.]+', b'"t":1' + b"0" * 400), 0),
    "10^5000": (in_last_line(rb'"t":[\d.]+', b'"t":1' + b"0" * 5000), 0),
    "no number": (in_last_line(rb'"t":[\d.]+', b'"t":"x"'), 0),
    "no JSON": (in_last_line(rb'"t":\d', b'"t":\x00'), 0),
    "no name": (in_last_line(rb'"t"', b'\xf4t"'), 0),
    "failure's time": (lambda d: re.sub(rb'("t":\d+)\.(\d+,"n":\d+,"kind":"view")', rb"\g<1>9\2", d, count=1), 0),
    "n infinite": (in_last_line(rb'"n":\d+', b'"n":1e999'), 1),
    "n huge": (in_last_line(rb'"n":\d+', b'"n":1' + b"0" * 30), 1),
    "status": (lambda d: d.replace(b'"failed"', b'"fayled"', 1), 1),
    "kind": (in_last_line(rb'"kind":"end"', b'"kind":"and"'), 1),
    "camera": (lambda d: d.replace(b'"yaw":0.1', b'"yaw":1e999', 1), 1),
    "nesting": (lambda d: d + b"[" * 200_000 + b"\n", 1),
    "nesting in a field": (lambda d: d + b'{"t":1.0,"n":9,"kind":"used","machine":' + b"[" * 50_000 + b"}\n", 1),
    "page of zeros": (lambda d: d + bytes(4096) + b"\n", 1),
    "half a surrogate": (lambda d: d.replace(b'"error":"x"', b'"error":"\\ud800"', 1), 1),
    "truth for a number": (lambda d: d.replace(b'"frames":2', b'"frames":true', 1), 1),
}


@pytest.mark.parametrize("case", TIMES)
def test_a_damaged_byte_costs_its_line_at_most_and_no_line_of_a_later_process(case: str, tmp_path: Path):
    edit, lost = TIMES[case]
    with RunLog(tmp_path) as log:
        log.begin_run({"v": ["easy"], "w": ["easy"]})
        note(log, "v", "failed", error="x")
    (path,) = journals(tmp_path)
    whole = path.read_bytes()
    damaged = edit(whole)
    assert damaged != whole
    path.write_bytes(damaged)
    history = History(tmp_path)
    assert (history.damage.passed_over, history.damage.times) == (lost, 0 if lost else 1)
    assert history.latest < time.time() + 1
    for round_ in range(2):
        with RunLog(tmp_path) as log:
            log.begin_run({"v": ["easy"], "w": ["easy"]})
            note(log, "v")
            note(log, "w")
        if round_ == 0:  # half of all names sort before that of the damaged journal
            new = next(p for p in journals(tmp_path) if p != path)
            new.rename(new.with_name("aaa-1-1.jsonl"))
    history = History(tmp_path)
    assert [history.get(video, "easy").status for video in "vw"] == ["done", "done"]
    for other in journals(tmp_path):
        if other != path:
            assert all(is_plain(loads(line)) for line in other.read_bytes().splitlines())
    merge([tmp_path])
    log = json.loads((tmp_path / "augmentation_params.json").read_text())
    assert {video: views["easy"]["status"] for video, views in log.items()} == {"v": "success", "w": "success"}


def test_a_clock_that_runs_ahead_for_years_loses_nothing(tmp_path: Path):
    ahead = Journal(tmp_path, {}, after=time.time() + 10 * AHEAD)
    for video in "abc":
        ahead.append("view", {"video": video, "view": "easy", "status": "failed", **CAMERA})
    assert set(History(tmp_path).views) == set("abc")
    with RunLog(tmp_path) as log:
        note(log, "b")
    history = History(tmp_path)
    assert [history.get(video, "easy").status for video in "abc"] == ["failed", "done", "failed"]
    assert history.damage.times >= 3 and history.damage.passed_over == 0


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output root of a run with a view that failed."""
    folder = tmp_path_factory.mktemp("real")
    write_clip(folder / "tracked", "clip", frames=2)
    (write_clip(folder / "tracked", "bad", frames=2) / "optim_tracking_ehm.pkl").write_bytes(b"")
    augment(folder / "tracked", folder / "out", difficulties=["easy"], views_per_difficulty=2, model=FakeModel())
    return folder / "out"


def test_no_mutation_of_a_journal_is_too_much(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nothing here is to outlive a loss of power
    (source,) = journals(real)
    whole = source.read_bytes()
    rng = random.Random(12)
    path = tmp_path / FOLDER / source.name
    path.parent.mkdir(parents=True)
    odd = [b"NaN", b"1e999", b"-1", b"null", b"[]", b"{}", b"true", b'"\\ud83d"', b'"../x"', b"9" * 5000, b"9" * 400]
    values = [match.span() for match in re.finditer(rb'(?<=":)("[^"\\]*"|-?[\d.]+)', whole)]
    for number in range(100):
        data = bytearray(whole)
        if number % 2:
            start, end = rng.choice(values)
            data[start:end] = rng.choice(odd)
        else:
            for _ in range(rng.choice([1, 1, 2, 8])):
                data[rng.randrange(len(data))] = rng.choice([rng.randrange(256), data[rng.randrange(len(data))] ^ 0x20])
        path.write_bytes(data)
        history, log, manifest = merge([tmp_path])
        run_status(history)
        failed_runs(history)
        said = json.loads(log.read_text(encoding="utf-8"), parse_constant=lambda text: pytest.fail(text))
        assert is_plain(said)
        assert parquet.read_table(manifest).num_rows == run_status(history).views
        log.unlink()


def test_status_counts_what_it_cannot_understand(real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(real, tmp_path / "out")
    (path,) = journals(tmp_path / "out")
    data = path.read_bytes().replace(b'"status":"success"', b'"status":"succest"', 1)
    path.write_bytes(re.sub(rb'("t":\d+)\.(\d+,"n":\d+,"kind":"end")', rb"\1e\2", data))
    assert main(["status", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["damage"]["passed_over"], said["damage"]["times"]) == (1, 1)
    assert said["damage"]["examples"][0].startswith(f"{path.name} line ")
    assert main(["status", str(tmp_path / "out")]) == 0
    assert "1 line not understood" in capsys.readouterr().out


BOMBS = [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'{"seed":NaN}', b"\xff\xfe{}", b"[1]", b'"\\ud800"', b""]


@pytest.mark.parametrize("content", BOMBS)
def test_other_json_of_ours_may_be_damaged_too(content: bytes, tmp_path: Path):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    assert read_sidecar(path) == {}
    with pytest.raises(OutputError, match="left as it is"):
        read_params(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("value", ["NaN", "1e999", "9" * 400, '"x"', '"\\ud800"'])
def test_a_log_with_a_value_that_cannot_be_written_again_is_refused(value: str, tmp_path: Path):
    path = tmp_path / "log.json"
    path.write_text('{"clip": {"easy": {"status": "success", "seed": ' + value + "}}}")
    with pytest.raises(OutputError, match="finite numbers"):
        read_params(path)


@pytest.mark.parametrize("said", ["{", '{"seed":NaN}', "[" * 50_000, '{"seed":1,"yaw":1e999,"pitch":0,"zoom":1}'])
def test_what_a_file_says_of_itself_is_checked(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("guava_aug.output.video.read_comment", lambda path: said)
    if said.startswith("{"):  # as only ours do
        with pytest.raises(OutputError, match="damaged"):
            tag_of_file(tmp_path / "any.mp4")
    else:
        assert tag_of_file(tmp_path / "any.mp4") is None
