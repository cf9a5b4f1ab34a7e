"""status, retry, merge and the manifest: what they say of whole, half-finished, dead and running work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from test_faults import nan_pose

from fakes import FakeModel, write_clip
from forks import ForkServer
from guava_aug import augment
from guava_aug.batch.journal.history import History
from guava_aug.batch.journal.journal import FOLDER, Journal
from guava_aug.batch.status import SILENT_AFTER, run_status
from guava_aug.cli import main
from guava_aug.output.tree import video_path
from guava_aug.runtime.processes import host_id, is_alive

VIEWS = ("easy", "medium", "hard")


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """Three clips, of which `bad` cannot be used."""
    root = tmp_path / "tracked"
    for name in ("bad", "one", "two"):
        write_clip(root, name, frames=3)
    nan_pose(root / "bad")
    return root


def run(tracked: Path, out: Path, videos: list[str] | None = None, **options):
    return augment(tracked, out, videos, model=FakeModel(), **options)


def rows(out: Path) -> dict[tuple[str, str], dict]:
    return {(row["video"], row["view"]): row for row in parquet.read_table(out / "manifest.parquet").to_pylist()}


def status(out: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(["status", str(out), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_status_of_a_run_that_ended(tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(tracked, tmp_path / "out")
    capsys.readouterr()
    said = status(tmp_path / "out", capsys)
    assert (said["views"], said["videos"], said["done"], said["failed"], said["left"]) == (9, 3, 6, 3, 0)
    (reason,) = said["reasons"]
    assert (reason["stage"], reason["views"], reason["videos"], reason["lasting"]) == ("data", 3, 1, 3)
    assert reason["examples"][0] == "bad / easy, frame 1" and "NaN" in reason["text"]
    (worker,) = said["workers"]
    assert (worker["life"], worker["made"], worker["pid"], said["running"]) == ("ended", 6, os.getpid(), 0)
    assert said["device_seconds_per_view"] > 0 and said["views_per_second"] is None and not said["on_gpu"]
    assert main(["status", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    for part in ("9 views of 3 videos: 6 done (66.7%), 3 failed, 0 left", "stage data", "NaN", "guava-aug retry"):
        assert part in text


def test_status_of_a_run_that_goes_on_and_of_one_that_died(
    forks: ForkServer, tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(tracked / "bad")
    shutil.rmtree(tracked / "two")
    write_clip(tracked, "two", frames=60)  # in flight for half a minute
    out = tmp_path / "out"
    roots = ["--tracked_root", str(tracked), "--output_root", str(out)]
    child = forks.start("run", *roots, "--quiet", "--frames_per_chunk", "1", seconds_per_frame=0.15)
    end = time.monotonic() + 300
    while len([path for path in out.rglob("*.mp4.tmp-*") if "two" in path.parts]) < 3:
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    said = status(out, capsys)
    (worker,) = said["workers"]
    assert (said["done"], said["left"], said["running"], worker["life"]) == (3, 3, 1, "running")
    assert worker["in_flight"] == ["two", 3]
    assert said["eta"] == pytest.approx(said["left"] / said["views_per_second"])
    child.send_signal(signal.SIGKILL)
    child.wait()
    said = status(out, capsys)
    assert (said["done"], said["left"], said["running"], said["workers"][0]["life"]) == (3, 3, 0, "died")
    assert said["eta"] is None
    assert main(["status", str(out)]) == 0
    assert "run the same command again" in capsys.readouterr().out
    run(tracked, out)
    assert status(out, capsys)["done"] == 6


def test_status_of_other_machines(tmp_path: Path):
    journal = Journal(tmp_path, {"host": "elsewhere", "host_id": "0" * 8, "pid": 1})
    journal.append("plan", {"views": {"clip": ["easy"]}})
    history = History(tmp_path)
    assert run_status(history).workers[0].life == "running"
    assert run_status(history, time.time() + SILENT_AFTER + 1).workers[0].life == "silent"


def test_reasons_that_differ_in_names_only_are_one(tmp_path: Path):
    journal = Journal(tmp_path, {})
    for i in range(5):
        error = f"video 'clip_{i}', /data/clip_{i}/x.pkl: frame {i}: NaN"
        fields = {"video": f"clip_{i}", "view": "easy", "status": "failed", "error": error, "stage": "data"}
        journal.append("view", {**fields, "frame": i})
    journal.append("view", {"video": "b", "view": "easy", "status": "failed", "error": "other", "stage": "data"})
    standing = run_status(History(tmp_path))
    assert [(reason.views, reason.videos) for reason in standing.reasons] == [(5, 5), (1, 1)]


@pytest.mark.parametrize("command", ["status", "retry", "merge"])
def test_a_folder_without_journals_is_refused(tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]):
    assert main([command, str(tmp_path)]) == 2
    assert "no journals" in capsys.readouterr().err
    assert main([command, str(tmp_path / "nowhere")]) == 2
    assert "is not there" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", ["status", "retry"])
def test_a_path_within_an_output_folder_is_answered_with_the_command(
    tracked: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    run(tracked, tmp_path / "out", ["one"])
    monkeypatch.chdir(tmp_path)
    for within, what in (
        ("augmentation_params.json", "is a file"),
        ("easy/one", "has no journals"),
        ("nowhere", "is not"),
    ):
        assert main([command, f"out/{within}"]) == 2
        said = capsys.readouterr().err
        assert what in said and said.rstrip().endswith(f"try: guava-aug {command} out")
    monkeypatch.chdir("out/easy/one")
    assert main([command, "."]) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"try: guava-aug {command} {tmp_path / 'out'}")
    assert main([command, "x" * 300]) == 2  # what the file system refuses to look at
    assert "cannot be read" in capsys.readouterr().err


def test_retry_makes_the_failed_and_only_them(
    tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *a, **k: FakeModel())
    monkeypatch.setattr("guava_aug.batch.validate.cached_weights_digest", lambda *a: "fake")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    options = {"difficulties": ["hard", "easy"], "base_seed": 5, "crf": 20, "background": "black"}
    run(Path("tracked"), Path("out"), ["bad", "one"], **options)
    run(Path("tracked"), Path("out"), ["bad"], part_id="7", views_per_difficulty=2, **options)
    video_path(out, "hard", "one").unlink()  # is missing, but did not fail
    monkeypatch.chdir("/")
    assert main(["retry", str(out), "--quiet"]) == 3
    assert capsys.readouterr().out.count("2 views: 2 failed") == 2  # all four of `bad`, as two runs
    shutil.rmtree(tracked / "bad")
    write_clip(tracked, "bad", frames=3)
    assert main(["retry", str(out), "--quiet"]) == 0
    assert not video_path(out, "hard", "one").exists()
    views = History(out).views["bad"]
    assert {label: view.status for label, view in views.items()} == dict.fromkeys(
        ["hard", "hard_001", "easy", "easy_001"], "done"
    )
    assert {view.made.fields["made_with"]["crf"] for view in views.values()} == {20}
    part = json.loads((out / "augmentation_params_part_7.json").read_text())["bad"]
    assert {label: part[label]["status"] for label in ("hard_001", "easy_001")} == {
        "hard_001": "success", "easy_001": "success"
    }  # fmt: skip
    capsys.readouterr()
    assert main(["retry", str(out)]) == 0
    assert "no view has failed" in capsys.readouterr().out


def test_merge_makes_one_log_and_one_manifest_of_all_parts(
    tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, whole = tmp_path / "out", tmp_path / "whole"
    run(tracked, whole)
    for part, names in (("0", ["one"]), ("1", ["two", "bad"])):
        run(tracked, out, names, part_id=part)
    assert not (out / "augmentation_params.json").exists()
    assert not (out / "manifest.parquet").exists()
    for _ in range(2):
        assert main(["merge", str(out)]) == 0
    assert "9 views of 2 parts by 2 processes: 6 done, 3 failed, 0 left" in capsys.readouterr().out
    merged, expected = (json.loads((root / "augmentation_params.json").read_text()) for root in (out, whole))
    for video, views in expected.items():
        for label, entry in views.items():
            for key in ("seed", "yaw", "pitch", "zoom", "status", "difficulty"):
                assert merged[video][label][key] == entry[key]
    free = {"finished", "part", *(name for name in rows(out)["one", "easy"] if name.startswith("seconds"))}
    same = lambda table: {key: {n: v for n, v in row.items() if n not in free} for key, row in table.items()}
    assert same(rows(out)) == same(rows(whole))
    assert [rows(out)[name, "easy"]["part"] for name in ("one", "two")] == ["0", "1"]


def test_merge_leaves_a_damaged_log_as_it_is(tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(tracked, tmp_path, ["one"])
    (log := tmp_path / "augmentation_params.json").write_text('{"old": {')
    assert main(["merge", str(tmp_path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert log.read_text() == '{"old": {'


def test_merge_of_several_roots_says_where_each_view_is(tracked: Path, tmp_path: Path):
    a, b = tmp_path / "a", tmp_path / "b"
    run(tracked, a, ["one"])
    run(tracked, b, ["two"])
    assert main(["merge", str(a), str(b)]) == 0
    assert set(json.loads((a / "augmentation_params.json").read_text())) == {"one", "two"}
    table = rows(a)
    assert (table["one", "easy"]["root"], table["two", "easy"]["root"]) == (None, str(b))
    assert (b / table["two", "easy"]["path"]).is_file() and (b / table["two", "easy"]["sidecar"]).is_file()


def test_manifest_rows(tracked: Path, tmp_path: Path):
    result = run(tracked, tmp_path, views_per_difficulty=2)
    table = rows(tmp_path)
    assert len(table) == 18 and list(table)[:3] == [("bad", "easy"), ("bad", "easy_001"), ("bad", "medium")]
    for view in result.views:
        row = table[view.video, view.label]
        assert (row["seed"], row["yaw"], row["pitch"], row["zoom"]) == (view.seed, view.yaw, view.pitch, view.zoom)
        assert row["difficulty"] == view.difficulty and row["cameras"] is None
        if view.status == "success":
            assert tmp_path / row["path"] == view.path and row["bytes"] == view.path.stat().st_size
            assert (row["status"], row["frames"], row["fps"], row["width"]) == ("done", 3, 30.0, 128)
            assert row["seconds_render"] > 0 and row["seconds_data"] >= 0
            assert (row["rasteriser"], row["precision"]) == ("fake", "fp32")
            assert (row["device"], row["error"], row["failed_runs"]) == ("cpu", None, 0)
            assert json.loads(row["versions"])["guava_aug"]
        else:
            assert (row["status"], row["stage"], row["frame"], row["path"]) == ("failed", "data", 1, None)
            assert "NaN" in row["error"] and row["failed_runs"] == 1


def test_manifest_knows_views_of_the_original_too(tracked: Path, tmp_path: Path):
    entry = {"video_name": "old", "difficulty": "easy", "seed": 1, "yaw": 0.1, "pitch": 0.2, "zoom": 1.0}
    log = {"old": {"easy": {**entry, "status": "success", "render_time": 3.5}}}
    (tmp_path / "augmentation_params.json").write_text(json.dumps(log))
    run(tracked, tmp_path, ["one"])
    row = rows(tmp_path)["old", "easy"]
    assert (row["status"], row["seed"], row["seconds_render"], row["fingerprint"]) == ("done", 1, 3.5, None)


def test_an_output_folder_that_cannot_be_written_is_refused_at_once(
    tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    where = tmp_path / "read only"
    where.mkdir(mode=0o555)
    if os.access(where, os.W_OK):  # for root all folders are writable, but for those of the kernel
        where = Path("/proc/self")
    code = main(["run", "--tracked_root", str(tracked), "--output_root", str(where / "out"), "--quiet"])
    assert code == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said and "choose another folder" in said


def test_retry_names_the_precisions_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["retry", str(tmp_path), "--precision", "fp64"]) == 2
    said = capsys.readouterr().err
    assert "fp64" in said and "auto, fp16, fp32" in said and "None" not in said


def test_processes_that_are_there_and_that_are_not():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    begun = time.time()
    assert is_alive(child.pid) and is_alive(child.pid, since=begun)
    assert not is_alive(child.pid, since=begun - 3600)  # another process has its number now
    child.communicate()
    assert not is_alive(child.pid)
    assert len(host_id()) == 8


def test_journals_are_where_the_page_says(tracked: Path, tmp_path: Path):
    run(tracked, tmp_path, ["one"])
    assert {path.suffix for path in (tmp_path / FOLDER).iterdir()} == {".jsonl"}


def test_status_of_copied_journals_looks_whether_the_files_are_there(
    tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run(tracked, tmp_path / "out", ["one"])
    shutil.copytree(tmp_path / "out" / ".guava-aug", tmp_path / "copy" / ".guava-aug")
    capsys.readouterr()
    said = status(tmp_path / "copy", capsys)
    assert (said["views"], said["done"], said["missing"]) == (3, 0, 3)
    assert main(["status", str(tmp_path / "copy")]) == 0
    assert "3 views done, as the journals say, but the files are not there" in capsys.readouterr().out
    video_path(tmp_path / "out", "hard", "one").unlink()
    said = status(tmp_path / "out", capsys)
    assert (said["done"], said["missing"]) == (2, 1)


def test_moved_folders_are_written_with_their_new_places(tracked: Path, tmp_path: Path):
    run(tracked, tmp_path / "old", ["one"])
    (tmp_path / "old").rename(tmp_path / "new")
    tracked.rename(tmp_path / "elsewhere")
    log = tmp_path / "new" / "augmentation_params.json"
    assert main(["merge", str(tmp_path / "new")]) == 0
    assert json.loads(log.read_text())["one"]["easy"]["output_dir"] == str(tmp_path / "new/easy/one")
    before = rows(tmp_path / "new")["one", "easy"]
    for _ in range(2):
        assert run(tmp_path / "elsewhere", tmp_path / "new", ["one"]).count() == {"skipped": 3}
        entry = json.loads(log.read_text())["one"]["easy"]
        assert entry["output_dir"] == str(tmp_path / "new/easy/one")
        assert entry["tracked_path"] == str(tmp_path / "elsewhere/one")
    after = rows(tmp_path / "new")["one", "easy"]
    assert after["fingerprint"] == before["fingerprint"] and after["seconds_render"] == before["seconds_render"]
    lines = [line for path in (tmp_path / "new" / FOLDER).iterdir() for line in path.read_text().splitlines()]
    assert sum('"kind":"view"' in line for line in lines) == 6  # told once more, and only once


def test_retry_with_nothing_to_retry_answers_without_torch(tracked: Path, tmp_path: Path):
    run(tracked, tmp_path / "out", ["one"])
    code = (
        "import sys; from guava_aug.cli import main; "
        f"code = main(['retry', {str(tmp_path / 'out')!r}]); print(code, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "no view has failed" in said and said.endswith("0 False\n")


def test_merge_and_a_run_with_nothing_to_do_need_no_torch(tracked: Path, tmp_path: Path):
    """Both are asked for of a hundred thousand views; reading torch alone would take longer."""
    run(tracked, tmp_path / "out", ["one"], difficulties=["easy"])
    flags = ["--tracked_root", str(tracked), "--output_root", str(tmp_path / "out"), "--device", "cpu", "--quiet"]
    words = ["run", *flags, "--video_list", "one", "--difficulties", "easy"]
    code = (
        "import sys, guava_aug.batch.executors.in_process; from guava_aug.cli import main; "
        "guava_aug.batch.validate.cached_weights_digest = lambda *a: 'fake'; "
        f"codes = main({words!r}), main(['merge', {str(tmp_path / 'out')!r}]); print(codes, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.endswith("(0, 0) False\n")


def test_slurm_warns_of_names_that_are_not_there(tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--tracked_root", str(tracked), "--output_root", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["slurm", *words, "--video_list", "one", "nowhere", "twoo"]) == 0
    said = capsys.readouterr()
    assert "2 of 3 names are no tracked videos below" in said.err and "nowhere, twoo" in said.err
    assert said.out.startswith("#!/bin/bash")
    assert main(["slurm", *words, "--video_list", "one"]) == 0
    assert "names" not in capsys.readouterr().err
