"""Journals of very many lines: what is read, checked and written together is what it is one by one."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from guava_aug.batch.journal import manifest, run_log
from guava_aug.batch.journal.history import History
from guava_aug.batch.journal.journal import FOLDER, Journal, Reader
from guava_aug.batch.journal.lines import Packer
from guava_aug.batch.journal.run_log import RunLog, merge
from guava_aug.batch.results import ViewRecord

CAMERA = {"azimuth": 0.1, "elevation": -0.2, "K": [1.5, 2.5, 3.5, 4.5], "viewmat": [float(i) for i in range(12)]}
MADE_WITH = {"weights": "w", "crf": 10, "fps": 30.0, "lossless": False}


def records(count: int) -> list[ViewRecord]:
    """Views of all kinds: that stand still, move or have a sampler of their own, with and without facts; failures."""
    rng = random.Random(3)
    made = []
    for i in range(count):
        video, label = f"vidéo {i // 4}", ("easy", "easy_001", "hard", "tour")[i % 4]
        line = {"video": video, "view": label, "status": rng.choice(["success", "success", "skipped", "failed"])}
        line |= {"seed": i, "yaw": rng.uniform(-1, 1), "pitch": rng.choice([0, -0.5, 0.25, -0.125]), "zoom": 1.0}
        if label == "tour":
            line = {**dict(list(line.items())[:3]), "sampler": "orbit", "params": {"radius": 2.0, "turns": [1, 2]}}
        line |= {"made_with": dict(MADE_WITH, crf=rng.choice([10, 20])), "input": [str(i // 4), "d", None], "bytes": i}
        optional = {
            "camera": rng.choice([CAMERA, CAMERA, {"moving": True}, dict(CAMERA, azimuth=1)]),
            "stages": rng.choice([{}, {"data": 0.25}, {"data": 0.5}, {"data": 1, "render per view": 0.5}]),
            "fps": rng.choice([25.0, 29.97]), "size": [64, 32],
            "frame_rate": "30000/1001", "digest": "ab", "fingerprint": f"f{i}", "frames": 3, "render_time": 0.125,
            "tracked_path": f"/t/{video}", "output_dir": f"/o/{label}/{video}", "trajectory": "circle",
        }  # fmt: skip
        line |= {key: value for key, value in optional.items() if rng.random() < 0.8}
        if line["status"] == "failed":
            line |= {"error": "it says \u2026 \x1b no", "stage": "encode", "frame": 2, "lasting": True}
        made.append(ViewRecord.from_json(line))
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    with RunLog(folder, header={"versions": {"x": "1"}}) as log:
        log.used({"machine": {"device": "cpu"}, "rasteriser": "numba"})
        log.ended(records(200))
    return folder


def said(root: Path) -> tuple[list, object]:
    reader = Reader(root)
    lines = [(line.key, line.kind, line.fields) for line in reader.new_lines()]
    return lines, (reader.damage.passed_over, reader.damage.times, reader.damage.examples)


def test_a_usual_line_is_understood_by_its_pattern_as_by_its_fields(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (source,) = (root / FOLDER).iterdir()
    whole = source.read_bytes()
    assert sum(Packer().usual_view(line, 0) is not None for line in whole.splitlines()) > 30
    path = tmp_path / FOLDER / source.name
    path.parent.mkdir(parents=True)
    rng = random.Random(5)
    for number in [0, *range(1, 100, 3)]:
        data = bytearray(whole)
        for _ in range(number):
            data[rng.randrange(len(data))] = rng.choice(b'"{}[],:0-e\\\n\x00tx')
        path.write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr(Packer, "usual_view", lambda self, line, start: None)  # as JSON, field by field
            alone = said(tmp_path)
        assert repr(said(tmp_path)) == repr(alone)  # 1 is not 1.0
    path.write_bytes(whole)
    lines, damage = said(tmp_path)
    assert damage == (0, 0, ())
    for (_, _, fields), text in zip(lines[1:], whole.splitlines()[1:], strict=True):
        line = json.loads(text)
        assert repr(fields) == repr({key: line[key] for key in line if key not in ("t", "n", "kind")})  # 1 is not 1.0


def test_lines_that_make_sense_only_together_are_damaged(tmp_path: Path):
    journal = Journal(tmp_path, {})
    for video in "abcd":
        journal.append("view", {"video": video, "view": "easy", "status": "success"})
    assert journal.path is not None
    first, *lines = journal.path.read_bytes().splitlines(keepends=True)
    opened = lines[1].replace(b"}\n", b',"x":[{}\n')
    closed = b"{}]}\n"
    two = lines[3].replace(b"\n", b",{}\n")
    journal.path.write_bytes(first + lines[0] + opened + closed + lines[2] + two)
    history = History(tmp_path)
    assert set(history.views) == {"a", "c"} and history.damage.passed_over == 3


def test_a_brace_in_the_name_of_a_number_does_no_harm(root: Path, tmp_path: Path):
    (source,) = (root / FOLDER).iterdir()
    text = source.read_bytes()
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / source.name).write_bytes(
        text.replace(b'"azimuth":', b'"azi}uth":').replace(b'"data":', b'"d}ta":')
    )
    history, _, table = merge([tmp_path])
    assert history.damage.passed_over == 0
    assert parquet.read_table(table).num_rows == 200


def test_log_and_manifest_are_the_same_by_the_quick_way_and_by_the_other(root: Path, monkeypatch: pytest.MonkeyPatch):
    _, log, table = merge([root])
    quick = log.read_bytes(), parquet.read_table(table)
    assert quick[1].num_rows == 200
    monkeypatch.setattr(manifest, "_is_usual", lambda view: False)
    monkeypatch.setattr(run_log, "told_alike", lambda *args: 0)
    monkeypatch.setattr(run_log, "_text_of_made", lambda *args: None)
    log.unlink()
    table.unlink()
    merge([root])
    assert (log.read_bytes(), parquet.read_table(table)) == quick
    matrices = {tuple(row) for row in quick[1]["viewmat"].to_pylist() if row}
    assert matrices == {(*CAMERA["viewmat"], 0.0, 0.0, 0.0, 1.0)}


def test_merge_leaves_files_that_would_be_the_same(root: Path, tmp_path: Path):
    shutil.copytree(root / FOLDER, tmp_path / FOLDER)
    files = merge([tmp_path])[1:]
    content = [file.read_bytes() for file in files]

    def made_again() -> list[bool]:
        before = [file.stat().st_ino for file in files]
        merge([tmp_path])
        assert [file.read_bytes() for file in files] == content
        return [file.stat().st_ino != inode for file, inode in zip(files, before, strict=True)]

    assert made_again() == [False, False]
    log, table = files
    text = log.read_text(encoding="utf-8")
    log.write_text(text.replace('"zoom": 1.0', '"zoom": 1.5', 1), encoding="utf-8")
    assert made_again() == [True, False]
    data, stat = bytearray(table.read_bytes()), table.stat()
    data[len(data) // 2] ^= 1  # as a disk may
    table.write_bytes(data)
    os.utime(table, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert made_again() == [False, True]


def test_what_a_log_knows_alone_is_found_behind_what_the_journals_know_too(root: Path, tmp_path: Path):
    merge([root])
    text = (root / "augmentation_params.json").read_text(encoding="utf-8")
    (tmp_path / FOLDER).mkdir(parents=True)
    for path in (root / FOLDER).iterdir():
        (tmp_path / FOLDER / path.name).write_bytes(path.read_bytes())
    log = tmp_path / "augmentation_params.json"
    edited = json.loads(text)
    edited["zz"] = {"easy": {"video_name": "zz", "difficulty": "easy", "seed": 5, "status": "success"}}
    edited["vidéo 7"]["easy"]["note"] = "kept"
    log.write_text(json.dumps(edited, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    merge([tmp_path])
    assert json.loads(log.read_text(encoding="utf-8")) == edited


def test_a_manifest_is_made_again_only_when_something_in_it_has_changed(root: Path, tmp_path: Path):
    shutil.copytree(root / FOLDER, tmp_path / FOLDER)
    table = tmp_path / "manifest.parquet"

    def with_log(say: Callable[[RunLog], object]) -> bool:
        """Whether a process that says something makes the manifest again; that is then as it would be made anew."""
        before = table.stat().st_ino if table.exists() else None
        with RunLog(tmp_path) as log:
            say(log)
        log.write_manifest()
        changed = table.stat().st_ino != before
        found = parquet.read_table(table)
        table.unlink()
        assert found.to_pylist() == parquet.read_table(merge([tmp_path])[2]).to_pylist()
        return changed

    done = {video: [label] for video, label, view in History(tmp_path).items() if view.status == "done"}
    left = {"vidéo 0": ["easy_005"]}
    assert with_log(lambda log: None)
    assert not with_log(lambda log: log.skipped(done))
    assert not with_log(lambda log: None)
    assert with_log(lambda log: log.begin_run(left))
    assert with_log(lambda log: log.skipped(left))  # made by a run that died before it said so
    assert not with_log(lambda log: log.same_inputs({"vidéo 0": ("s", "d", 25.0)}))
    assert with_log(lambda log: log.not_retried({"vidéo 0": ["easy_005"]}))
    other = Journal(tmp_path, {})
    assert with_log(lambda log: (other.append("view", records(200)[7].to_json()), log.used({})))
    table.unlink()
    assert with_log(lambda log: log.skipped(done))
