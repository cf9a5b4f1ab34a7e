"""What exists and what is to be made: fingerprints, other configurations, other inputs, what failed before."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import shutil
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import torch

from fakes import FakeModel, write_clip
from guava_aug import UsageError, augment
from guava_aug.batch.config import RunConfig
from guava_aug.batch.config_diff import EMBEDDED_BEFORE, ConfigMismatchError, Difference, explain_differences
from guava_aug.batch.fingerprint import (
    cached_weights_digest,
    fingerprint,
    input_digest,
    input_signature,
    weights_digest,
)
from guava_aug.batch.journal.history import History
from guava_aug.batch.validate import render_settings
from guava_aug.output.metadata import read_sidecar, tag_of_file
from guava_aug.output.tree import png_dir, sidecar_path, video_path
from guava_aug.output.video import VideoWriter, open_video
from guava_aug.tracked import TrackedVideo
from guava_aug.views import plan_views

VIEWS = ("easy", "medium", "hard")
Pictures = dict[str, bytes]


@pytest.fixture
def tracked(tmp_path: Path) -> Path:
    """Two small clips; a test may change them."""
    for name in ("one", "two"):
        write_clip(tmp_path / "tracked", name, frames=3)
    return tmp_path / "tracked"


def pictures(out: Path) -> Pictures:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.mp4"))}


def run(tracked: Path, out: Path, videos: list[str] | None = None, weights: str = "fake", **options):
    return augment(tracked, out, videos, model=FakeModel(source=weights), **options)


# --- the fingerprint -----------------------------------------------------------------------------------------------


def test_journal_file_and_manifest_have_the_same_fingerprint(tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(tracked, out, background="#102030", crf=12)
    table = {(row["video"], row["view"]): row for row in parquet.read_table(out / "manifest.parquet").to_pylist()}
    seen = set()
    for video, label, state in History(out).items():
        told = state.made.fields
        tag = tag_of_file(video_path(out, label, video))
        beside = json.loads(sidecar_path(out, label, video).read_text())
        row = table[video, label]
        assert told["fingerprint"] == tag.fingerprint == beside["fingerprint"] == row["fingerprint"]
        assert told["made_with"] == tag.made_with == beside["made_with"] == json.loads(row["made_with"])
        assert tag.made_with == {
            "weights": "fake", "background": "#102030", "crf": 12, "preset": "veryfast", "render": 1, "fps": 30.0,
            "input": input_digest(TrackedVideo.open(tracked, video)),
        }  # fmt: skip
        seen.add(tag.fingerprint)
    assert len(seen) == 6


def test_it_depends_on_camera_and_settings_and_on_nothing_else(tracked: Path, tmp_path: Path):
    one, *others = plan_views("one", VIEWS)
    settings = {"weights": "a", "crf": 10}
    base = fingerprint(one, settings)
    assert fingerprint(one, dict(reversed(settings.items()))) == base
    assert len({base, fingerprint(one, {**settings, "crf": 11}), *(fingerprint(v, settings) for v in others)}) == 4
    config = RunConfig(tracked, tmp_path)
    for other in ({"views_in_flight": 1, "frames_per_chunk": 1, "device": "cpu", "part_id": "3", "retries": 4},):
        assert render_settings(RunConfig(tracked, tmp_path / "x", **other)) == render_settings(config)


def test_weights_are_read_once_per_output_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    file = tmp_path / "model.safetensors"
    root = tmp_path / "out"
    assert cached_weights_digest(file, root) == weights_digest(file)
    assert not root.exists()
    (root / ".guava-aug").mkdir(parents=True)
    digest = cached_weights_digest(tmp_path, root)  # the folder of it
    monkeypatch.setattr("guava_aug.batch.fingerprint._content", lambda *a: pytest.fail("read again"))
    assert cached_weights_digest(file, root) == digest
    monkeypatch.undo()
    file.write_bytes(b"Weights")
    assert cached_weights_digest(file, root) != digest


def test_a_long_file_is_digested_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("guava_aug.batch.fingerprint._PIECE", 1000)
    monkeypatch.setattr("guava_aug.batch.fingerprint._BLOCK", 300)
    file = tmp_path / "model.safetensors"
    sha256 = lambda data: hashlib.sha256(data).digest()
    for length in (0, 999, 1000):
        file.write_bytes(data := bytes(i % 251 for i in range(length)))
        assert weights_digest(file) == sha256(data).hex()[:32]
    for length in (1001, 2000, 2500):
        file.write_bytes(data := bytes(i % 251 for i in range(length)))
        pieces = [data[i : i + 1000] for i in range(0, length, 1000)]
        assert weights_digest(file) == sha256(b"".join(map(sha256, pieces))).hex()[:32]


def test_a_checkpoint_of_the_original_includes_its_configuration(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best.pt").write_bytes(b"weights")
    (tmp_path / "config.yaml").write_text("a: 1")
    before = weights_digest(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 2")
    assert weights_digest(tmp_path) != before


def test_input_digest_tells_content_and_not_storage(tracked: Path, tmp_path: Path):
    digest = input_digest(TrackedVideo.open(tracked, "one"))
    other = tmp_path / "other"
    shutil.copytree(tracked / "one", other / "one")
    assert input_digest(TrackedVideo.open(other, "one")) == digest
    signature = input_signature(other, "one")
    os.utime(other / "one" / "img_lmdb" / "data.mdb", (1, 1))
    assert signature != input_signature(other, "one")
    assert input_signature(other, "nobody") is None
    path = other / "one" / "optim_tracking_ehm.pkl"
    frames = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(frames, protocol=2))  # the same in other bytes
    assert input_digest(TrackedVideo.open(other, "one")) == digest
    frames["frame_000001"]["smplx_coeffs"]["body_pose"].flat[5] += 1e-3
    path.write_bytes(pickle.dumps(frames))
    assert input_digest(TrackedVideo.open(other, "one")) != digest
    write_clip(other, "dark", frames=3, mask_level=200)
    write_clip(other, "odd_", frames=3)  # as long a name: the same parameters
    assert input_digest(TrackedVideo.open(other, "dark")) != input_digest(TrackedVideo.open(other, "odd_"))


# --- another configuration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"crf": 20}, ["--crf: made with 10, this run 20"]),
        ({"preset": "ultrafast"}, ["--preset: made with veryfast, this run ultrafast"]),
        ({"background": "black"}, ["--background: made with plate, this run black"]),
        ({"fps": 25.0}, ["made with 30.0, this run 25.0"]),
        ({"weights": "others"}, ["weights", "made with fake, this run others"]),
        ({"crf": 20, "background": "#ffffff"}, ["--crf", "--background"]),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_another_configuration_is_an_error_that_shows_it(tracked: Path, tmp_path: Path, change: dict, shown: list):
    out = tmp_path / "out"
    run(tracked, out)
    before = pictures(out)
    for lost in (False, True):  # the files know it too
        if lost:
            shutil.rmtree(out / ".guava-aug")
            (out / "augmentation_params.json").unlink()
        with pytest.raises(UsageError) as caught:
            run(tracked, out, **change)
        for text in (*shown, "6 views", "one / easy", "--overwrite", "--output_root"):
            assert text in str(caught.value)
    assert pictures(out) == before
    assert run(tracked, tmp_path / "other", **change).ok
    assert run(tracked, out, overwrite=True, **change).count() == {"success": 6}
    assert run(tracked, out, **change).count() == {"skipped": 6}


def test_a_background_picture_is_known_by_its_content(tracked: Path, tmp_path: Path):
    import numpy as np

    from guava_aug.output.pngs import write_png

    for name, level in (("a.png", 10), ("b.png", 10), ("c.png", 90)):
        write_png(tmp_path / name, np.full((8, 8, 3), level, np.uint8))
    run(tracked, tmp_path / "out", ["one"], background=str(tmp_path / "a.png"))
    assert run(tracked, tmp_path / "out", ["one"], background=str(tmp_path / "b.png")).count() == {"skipped": 3}
    with pytest.raises(UsageError, match="--background"):
        run(tracked, tmp_path / "out", ["one"], background=str(tmp_path / "c.png"))


def test_what_does_not_decide_the_pixels_may_change(tracked: Path, tmp_path: Path):
    run(tracked, tmp_path / "out")
    free = {"views_in_flight": 1, "frames_per_chunk": 1, "part_id": "9", "retries": 0, "grace": 1.0}
    assert run(tracked, tmp_path / "out", **free).count() == {"skipped": 6}


def test_precision_may_change_and_is_a_new_attempt(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The views that are there stay; one that failed with half precision is not left alone with float32."""
    monkeypatch.setattr(FakeModel, "render", lambda *args: torch.full((3, 3, 128, 128), float("nan")))
    for _ in range(4):
        again = run(tracked, tmp_path / "out", ["one"], difficulties=["easy"], precision="fp16")
    assert again.failed and "not tried again" in (again.failed[0].error or "")
    monkeypatch.undo()
    assert run(tracked, tmp_path / "out", ["one"], difficulties=["easy"], precision="fp16").count() == {"failed": 1}
    assert run(tracked, tmp_path / "out", ["one"], difficulties=["easy"], precision="fp32").count() == {"success": 1}
    for precision in ("auto", "fp16", "fp32"):
        assert run(tracked, tmp_path / "out", ["one"], difficulties=["easy"], precision=precision).count() == {
            "skipped": 1
        }


def test_files_of_an_earlier_version_count_as_done_with_a_warning(
    tracked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    import numpy as np

    out = tmp_path / "out"
    for view in plan_views("one", VIEWS):
        camera = {"seed": view.seed, "yaw": view.yaw, "pitch": view.pitch, "zoom": view.zoom}
        with VideoWriter(video_path(out, view.label, "one"), 64, 64, comment=json.dumps(camera)) as writer:
            writer.write(np.zeros((3, 64, 64, 3), np.uint8))
    for _ in range(2):
        caplog.clear()
        assert run(tracked, out, ["one"]).count() == {"skipped": 3}
        assert sum("3 views made by an earlier version" in r.getMessage() for r in caplog.records) == 1
    with pytest.raises(UsageError, match="another camera"):
        run(tracked, out, ["one"], base_seed=1)


# --- another input -------------------------------------------------------------------------------------------------


def test_a_video_that_was_tracked_again_is_told_and_nothing_is_mixed(tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(tracked, out, difficulties=["easy", "hard"])
    before = pictures(out)
    shutil.rmtree(tracked / "one")
    write_clip(tracked, "one", frames=4)
    video_path(out, "hard", "one").unlink()
    for _ in range(2):  # it does not become right by being told once
        result = run(tracked, out, difficulties=["easy", "hard"])
        assert [(v.video, v.status) for v in result.views] == [("one", "failed")] * 2 + [("two", "skipped")] * 2
        assert "tracked again" in (result.views[0].error or "") and "--video_list one" in (result.views[0].error or "")
        assert pictures(out) == {k: v for k, v in before.items() if k != "hard/one/" and "hard/one" not in k}
    assert run(tracked, out, ["one"], difficulties=["easy", "hard"], overwrite=True).count() == {"success": 2}
    assert run(tracked, out, difficulties=["easy", "hard"]).count() == {"skipped": 4}


def test_a_video_that_was_tracked_again_is_told_by_the_files_alone(tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(tracked, out)
    for _ in range(2):
        shutil.rmtree(out / ".guava-aug")
        (out / "augmentation_params.json").unlink()
        assert run(tracked, out).count() == {"skipped": 6}
    known = History(out).get("one", "easy").made.fields
    assert (known["fps"], known["size"], known["frames"]) == (30.0, [128, 128], 3)
    shutil.rmtree(out / ".guava-aug")
    shutil.rmtree(tracked / "one")
    write_clip(tracked, "one", frames=4)
    assert run(tracked, out).count() == {"failed": 3, "skipped": 3}


def test_the_same_data_with_other_dates_are_read_once(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    run(tracked, out)
    moved = tmp_path / "moved"
    shutil.copytree(tracked, moved)
    os.utime(moved / "one" / "videos_info.json", (1, 1))
    assert run(moved, out).count() == {"skipped": 6}
    monkeypatch.setattr("guava_aug.tracked.TrackedVideo.open", lambda *a, **k: pytest.fail("a video was opened"))
    assert run(moved, out).count() == {"skipped": 6}


def test_a_frame_rate_that_the_data_say_later_is_noticed(tracked: Path, tmp_path: Path):
    run(tracked, tmp_path / "out")
    info = tracked / "one" / "videos_info.json"
    content = json.loads(info.read_text())
    content["one"]["fps"] = 24.0
    info.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"made with 30.0, this run 24.0"):
        run(tracked, tmp_path / "out")
    assert run(tracked, tmp_path / "out", fps=30.0).count() == {"skipped": 6}


def test_done_views_stay_done_when_their_tracked_data_are_gone(tracked: Path, tmp_path: Path):
    run(tracked, tmp_path / "out")
    shutil.rmtree(tracked / "one")
    assert run(tracked, tmp_path / "out", ["one", "two"]).count() == {"skipped": 6}


# --- what exists ---------------------------------------------------------------------------------------------------


def test_verify_finds_what_headers_do_not_show(tracked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    out = tmp_path / "out"
    run(tracked, out)
    before = pictures(out)
    path = video_path(out, "easy", "one")
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat") + 4
    data[at : at + 400] = bytes(400)  # same length, same header
    path.write_bytes(data)
    assert run(tracked, out).count() == {"skipped": 6}
    assert run(tracked, out, verify=True).count() == {"skipped": 5, "success": 1}
    assert "this run makes it again" in caplog.text and "delete it" not in caplog.text
    assert pictures(out) == before


def damaged_codec(out: Path) -> None:
    path = video_path(out, "easy", "one")
    data = bytearray(path.read_bytes())
    at = data.index(b"avc1", 40)
    data[at : at + 4] = b"xxx1"  # PyAV has no codec context for it
    path.write_bytes(data)


def damaged_camera(out: Path) -> None:
    """One digit of what the file says of its camera: it would be a view with another camera."""
    path = video_path(out, "easy", "one")
    data = bytearray(path.read_bytes())
    at = data.index(b'"yaw": ') + len(b'"yaw": 0.0')
    data[at] ^= 1
    path.write_bytes(data)


def damaged_sidecar(out: Path) -> None:
    sidecar_path(out, "easy", "one").write_bytes(b"{" * 100_000)


def missing_sidecar(out: Path) -> None:
    sidecar_path(out, "easy", "one").unlink()


def damaged_picture(out: Path) -> None:
    path = png_dir(out, "easy", "one") / "00001.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("journals", ["here", "lost"])
@pytest.mark.parametrize(
    "damage",
    [damaged_codec, damaged_camera, damaged_sidecar, missing_sidecar, damaged_picture],
    ids=lambda d: d.__name__,
)
def test_damage_is_made_again(tracked: Path, tmp_path: Path, damage, journals: str, caplog: pytest.LogCaptureFixture):
    out, options = tmp_path / "out", {"difficulties": ["easy", "hard"], "save_frame_png": True}
    run(tracked, out, **options)
    before = pictures(out)
    damage(out)
    if journals == "lost":
        shutil.rmtree(out / ".guava-aug")
        (out / "augmentation_params.json").unlink()
    caplog.clear()
    assert run(tracked, out, verify=True, **options).count() == {"skipped": 3, "success": 1}
    assert "made again" in caplog.text or "makes it again" in caplog.text
    assert pictures(out) == before
    caplog.clear()
    assert run(tracked, out, verify=True, **options).count() == {"skipped": 4}
    assert "again" not in caplog.text


def test_pngs_of_a_sink_are_verified(tracked: Path, tmp_path: Path):
    out, options = tmp_path / "out", {"difficulties": ["easy"], "sinks": ["png"]}
    run(tracked, out, **options)
    before = pictures(out)
    damaged_picture(out)
    assert run(tracked, out, verify=True, **options).count() == {"skipped": 1, "success": 1}
    assert pictures(out) == before


def test_a_root_of_0_1_0_is_verified_by_decoding(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its journals have neither a digest nor an exact frame rate, and its sidecars no exact frame rate."""
    out = tmp_path / "out"
    monkeypatch.setattr("guava_aug.batch.executors.open_clip.rate_text", lambda fps: None)
    monkeypatch.setattr("guava_aug.batch.executors.in_process.file_digest", lambda path: None)
    run(tracked, out, difficulties=["easy"], fps=29.97)
    monkeypatch.undo()
    assert run(tracked, out, difficulties=["easy"], fps=29.97, verify=True).count() == {"skipped": 2}
    damaged_codec(out)
    assert run(tracked, out, difficulties=["easy"], fps=29.97, verify=True).count() == {"skipped": 1, "success": 1}
    rows = parquet.read_table(out / "manifest.parquet").to_pylist()
    assert {row["frame_rate"] for row in rows} == {"2997/100"}


def test_a_rate_that_is_a_fraction_is_kept_exactly(tracked: Path, tmp_path: Path):
    out, ntsc, options = tmp_path / "out", Fraction(30000, 1001), {"difficulties": ["easy"]}
    run(tracked, out, fps=ntsc, **options)
    for name in ("one", "two"):
        with open_video(video_path(out, "easy", name)) as (_, stream):
            assert stream.average_rate == ntsc
        beside = read_sidecar(sidecar_path(out, "easy", name))
        assert (beside["frame_rate"], beside["fps"]) == ("30000/1001", float(ntsc))
        assert beside["made_with"]["fps"] == float(ntsc)
    rows = parquet.read_table(out / "manifest.parquet").to_pylist()
    assert {(row["frame_rate"], row["fps"]) for row in rows} == {("30000/1001", float(ntsc))}
    for same in ("30000/1001", float(ntsc), Fraction(60000, 2002)):  # the second: of an older command line
        assert run(tracked, out, fps=same, **options).count() == {"skipped": 2}
    with pytest.raises(ConfigMismatchError, match="frames per second"):
        run(tracked, out, fps=29.97, **options)
    header = next(iter(History(out).workers.values())).header
    assert header["config"]["fps"] == "30000/1001"
    assert RunConfig.from_json(header["config"]).fps == ntsc  # what `retry` and child processes are given


def test_views_of_the_model_that_an_earlier_version_had_embedded_name_that_version():
    (old,) = EMBEDDED_BEFORE
    said = explain_differences([Difference("one", "easy", "weights", old, "b" * 32)])
    assert f"{old} is the embedded model of guava-aug 0.1.0: to go on with it, use that version" in said
    other = explain_differences([Difference("one", "easy", "weights", "a" * 32, "b" * 32)])
    assert "embedded" not in other


@pytest.mark.parametrize("content", [b"", b"x", None])
def test_a_file_that_is_not_whole_is_made_again_without_verify(tracked: Path, tmp_path: Path, content: bytes | None):
    out = tmp_path / "out"
    run(tracked, out)
    before = pictures(out)
    path = video_path(out, "easy", "one")
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    assert run(tracked, out).count() == {"skipped": 5, "success": 1}
    assert pictures(out) == before


@pytest.mark.parametrize("name", ["ünï cöde 手話", "  spaces  ", "a'b\"c;$(d)", "-dash", "é" * 95, "x" * 190, "%s{}"])
def test_odd_names(tmp_path: Path, name: str):
    write_clip(tmp_path / "tracked", name, frames=2)
    result = run(tmp_path / "tracked", tmp_path / "out", difficulties=["easy"])
    assert result.ok and result.views[0].path.is_file()
    assert run(tmp_path / "tracked", tmp_path / "out", difficulties=["easy"]).count() == {"skipped": 1}
    assert History(tmp_path / "out").get(name, "easy").status == "done"


def test_overwrite_that_failed_early_leaves_nothing_old_behind(tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    run(tracked, out, ["one"])
    broken = FakeModel(on_render=lambda: (_ for _ in ()).throw(RuntimeError("boom")))
    assert augment(tracked, out, ["one"], model=broken, overwrite=True, base_seed=5).count() == {"failed": 3}
    assert run(tracked, out, ["one"], base_seed=5).count() == {"success": 3}


# --- what failed before --------------------------------------------------------------------------------------------


def test_failures_are_tried_again_within_the_run(tracked: Path, tmp_path: Path):
    model = FakeModel()

    def fail_twice() -> None:
        if len([c for c in model.calls if c.startswith("render")]) in (2, 4):
            raise RuntimeError("no such luck")

    model.on_render = fail_twice
    result = augment(tracked, tmp_path / "out", ["one"], model=model, retries=2)
    assert result.count() == {"success": 3}
    assert model.calls.count("infer") == 3


def test_bad_data_are_tried_once_and_then_left_alone(tracked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tracked / "one" / "optim_tracking_ehm.pkl"
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    opened = []
    real = TrackedVideo.open.__func__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrackedVideo, "open", classmethod(lambda c, r, n, **k: (opened.append(n), real(c, r, n, **k))[1]))
        assert run(tracked, tmp_path / "out").count() == {"failed": 3, "success": 3}
        assert opened == ["one", "two"]
        result = run(tracked, tmp_path / "out")
        assert opened == ["one", "two"]
    assert result.count() == {"failed": 3, "skipped": 3}
    assert "truncated" in result.failed[0].error and "not tried again" in result.failed[0].error
    assert f"guava-aug retry {tmp_path / 'out'}" in caplog.text
    path.write_bytes(good)  # mended: its files have other dates
    assert run(tracked, tmp_path / "out").count() == {"success": 3, "skipped": 3}


def test_other_failures_are_left_alone_after_three_runs(tracked: Path, tmp_path: Path):
    calls: list[str] = []
    for expected in (2, 2, 2, 0):
        model = FakeModel(on_render=lambda: (_ for _ in ()).throw(RuntimeError("boom")))
        assert augment(tracked, tmp_path / "out", ["one"], ["easy"], model=model).count() == {"failed": 1}
        assert model.calls.count("infer") == expected
        calls += model.calls
    assert run(tracked, tmp_path / "out", ["one"], difficulties=["easy"], background="black").ok  # another attempt


def test_trouble_with_reading_is_not_blamed_on_the_data(
    tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL)
    real = Path.read_bytes

    def sick(path: Path) -> bytes:
        if path.name == "id_share_params.pkl":
            raise OSError(5, "Input/output error")
        return real(path)

    from guava_aug.runtime import safe_pickle

    def load(path: Path):
        from guava_aug.errors import InputError

        try:
            sick(path)
        except OSError as error:
            raise InputError(f"{path}: {error}") from error
        return safe_pickle.load_pickle(path)

    monkeypatch.setattr("guava_aug.tracked.video.load_pickle", load)
    assert run(tracked, tmp_path / "out", ["one"]).count() == {"failed": 3}
    monkeypatch.undo()
    assert run(tracked, tmp_path / "out", ["one"]).count() == {"success": 3}


def test_a_failure_has_stage_frame_and_reason(tracked: Path, tmp_path: Path):
    model = FakeModel()

    def fail_third() -> None:
        if len([c for c in model.calls if c.startswith("render")]) == 3:
            raise RuntimeError("no such luck")

    model.on_render = fail_third
    augment(tracked, tmp_path / "out", ["one"], ["easy"], model=model, retries=0, frames_per_chunk=1)
    told = History(tmp_path / "out").get("one", "easy").failed.fields
    assert (told["video"], told["view"], told["stage"], told["frame"]) == ("one", "easy", "render per view", 2)
    assert told["error"] == "RuntimeError: no such luck"

    path = tracked / "two" / "optim_tracking_ehm.pkl"
    frames = pickle.loads(path.read_bytes())
    frames["frame_000001"]["smplx_coeffs"]["body_pose"].fill(float("nan"))
    path.write_bytes(pickle.dumps(frames))
    run(tracked, tmp_path / "out", ["two"], difficulties=["easy"])
    told = History(tmp_path / "out").get("two", "easy").failed.fields
    assert (told["stage"], told["frame"], told["lasting"]) == ("data", 1, True)


# --- the sidecar ---------------------------------------------------------------------------------------------------


def test_the_sidecar_has_the_time_axis(tracked: Path, tmp_path: Path):
    (tmp_path / "times.json").write_text('{"one": {"fps": 24, "source_frames": [4, 5, 9]}}')
    run(tracked, tmp_path / "out", difficulties=["easy"], time_map=tmp_path / "times.json")
    one = json.loads(sidecar_path(tmp_path / "out", "easy", "one").read_text())
    assert (one["fps"], one["source_frames"], one["dropped_frames"]) == (24.0, [4, 5, 9], [[6, 8]])
    two = json.loads(sidecar_path(tmp_path / "out", "easy", "two").read_text())
    assert (two["fps"], two["source_frames"], two["dropped_frames"], two["frames"]) == (30.0, None, None, 3)
    assert (two["width"], two["height"], two["seed"]) == (128, 128, plan_views("two", ["easy"])[0].seed)
