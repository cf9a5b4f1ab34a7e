"""`--personalize`: avatars fitted in runs, kept as files, made once, taken over after a kill, not used when worse."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import guava_aug.avatar.personalize as library
from fakes import FakeModel, write_clip
from guava_aug.avatar import Avatar
from guava_aug.avatar.model import GuavaModel, load_model
from guava_aug.avatar.personalize import PersonalizeConfig, PersonalizedVideo, Rates
from guava_aug.avatar.personalize.fit import Personalized
from guava_aug.batch.avatars import AvatarStore, settle
from guava_aug.batch.config import RunConfig
from guava_aug.batch.run import augment
from guava_aug.cli import main
from guava_aug.errors import InputError, OutputError, UsageError
from guava_aug.output.tree import sidecar_path, video_path
from guava_aug.runtime.processes import child_environment
from guava_aug.tracked import TrackedVideo
from person_clip import write_person
from run_outputs import frames_of
from tiny_model import write_tiny_model

SIZE = 16  # one tile: without a GPU the gradients of small pictures alone are quick
FRAMES = 4
TESTS = Path(__file__).resolve().parent.parent
VIEW = {"difficulties": ["easy"], "background": "black", "device": "cpu"}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tracked root with one clip of a person, and a model."""
    root = tmp_path_factory.mktemp("avatars")
    write_person(root / "tracked", "clip", FRAMES)
    return root / "tracked", write_tiny_model(root / "model.safetensors", SIZE)


@pytest.fixture(scope="module")
def model(places: tuple[Path, Path]) -> GuavaModel:
    return load_model(places[1])


@pytest.fixture(scope="module")
def off(places: tuple[Path, Path], model: GuavaModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without fitted avatars leaves."""
    out = tmp_path_factory.mktemp("off")
    assert augment(places[0], out, model=model, **VIEW).ok
    return out


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of videos that are fitted; a fit paints the network's avatar red, which takes no time."""
    found: list[str] = []
    monkeypatch.setattr(library, "personalize_video", _painted(found.append))
    yield found


@functools.cache
def _guess(model: GuavaModel, path: Path) -> Avatar:
    return model.reconstruct(TrackedVideo.open(path.parent, path.name).source_at(model.config.feature_img_size))


def _painted(
    on_fit: Callable[[str], None], before: float = 10.0, after: float = 12.0, seconds: float = 0.0
) -> Callable[..., PersonalizedVideo]:
    def fit(model: GuavaModel, video: TrackedVideo, config: PersonalizeConfig, **more: Any) -> PersonalizedVideo:
        on_fit(video.name)
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            more["on_step"](1, 2)
            time.sleep(0.01)
        avatar = _guess(model, video.path)
        features = avatar.features.clone()
        features[:, :3] = torch.tensor([1.0, 0.0, 0.0])
        avatar = replace(avatar, features=features)
        moved = video.viewmats.clone()
        moved[:, 0, 3] += 0.01
        gate = torch.ones(avatar.num_gaussians)
        found = Personalized(avatar, avatar.rest.identity, video.motion, moved, gate, 0.5, before, after)
        return PersonalizedVideo(found, tuple(range(video.num_frames)), 1, video.motion, moved)

    return fit


def _made(out: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Pictures and `made_with` of the view."""
    pictures, _ = frames_of(video_path(out, "easy", "clip"))
    beside = json.loads(sidecar_path(out, "easy", "clip").read_text(encoding="utf-8"))
    return np.stack(pictures).astype(float), beside


def _avatar_files(out: Path) -> list[Path]:
    return sorted((out / ".guava-aug" / "avatars").rglob("*.*"))


def test_a_run_fits_the_avatar_and_renders_it(
    places: tuple[Path, Path], model: GuavaModel, off: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real fit, of a few steps, with a rate at which colours change much."""
    config = PersonalizeConfig(
        steps=3, frames_per_step=1, guess_frames=1, most_frames=3, clothes=0.0, release=0.02, rates=Rates(color=8.0)
    )
    monkeypatch.setattr(library, "PRESETS", {"fast": config})
    assert augment(places[0], tmp_path, model=model, personalize="fast", **VIEW).ok
    (before, plain), (after, beside) = _made(off), _made(tmp_path)
    assert not any(key.startswith(("avatar", "personalize")) for key in plain["made_with"])
    said = beside["made_with"]
    assert said["personalize"] == "fast" and said["avatar_version"] == 1 and len(said["avatar"]) == 32
    assert said["avatar_used"] == (said["avatar_after"] > said["avatar_before"])
    assert said["avatar_used"] and np.abs(after - before).max() > 4
    assert plain["fingerprint"] != beside["fingerprint"]
    (file,) = _avatar_files(tmp_path)
    found = library.read_avatar_file(file, model.body)
    assert found.made_with["frames"] == "3" and len(found.motion) == FRAMES
    assert not (off / ".guava-aug" / "avatars").exists()


def test_an_avatar_is_fitted_once_for_all_runs_and_views(
    places: tuple[Path, Path], model: GuavaModel, off: Path, tmp_path: Path, fits: list[str]
) -> None:
    tracked, out, avatars = places[0], tmp_path / "out", tmp_path / "avatars"
    more = {**VIEW, "model": model, "personalize": "full", "avatar_root": avatars}
    assert augment(tracked, out, **more).ok
    assert augment(tracked, out, **{**more, "personalize": "auto"}).count() == {"skipped": 1}  # as what is there
    assert augment(tracked, out, **{**more, "views_per_difficulty": 2}).count() == {"skipped": 1, "success": 1}
    assert fits == ["clip"]
    assert [p.suffix for p in avatars.rglob("*.*")] == [".safetensors"]
    assert _made(out)[1]["viewmats"] != _made(off)[1]["viewmats"]  # those of the fit


def test_an_avatar_no_better_than_before_is_not_used_and_all_say_so(
    places: tuple[Path, Path],
    model: GuavaModel,
    off: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(library, "personalize_video", _painted(lambda name: None, before=12.0, after=11.5))
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **options: model)
    tracked, weights = places
    words = ["run", str(tracked), str(tmp_path / "out"), "--model_path", str(weights), "--device", "cpu",
             "--difficulties", "easy", "--background", "black"]  # fmt: skip
    assert main([*words, "--personalise", "fast"]) == 0
    assert "not used: 12.00 dB before, 11.50 after" in " ".join(capfd.readouterr().err.split())
    (ours, beside), (before, plain) = _made(tmp_path / "out"), _made(off)
    assert np.array_equal(ours, before) and beside["viewmats"] == plain["viewmats"]
    said = beside["made_with"]
    assert (said["avatar_used"], said["avatar_before"], said["avatar_after"]) == (False, 12.0, 11.5)
    capfd.readouterr()
    assert main(["status", str(tmp_path / "out")]) == 0
    shown = capfd.readouterr().out
    assert "fitted avatars: 0 used, 1 no better and not used" in shown
    assert "clip: not used, 12.00 dB before, 11.50 after" in shown
    import pyarrow.parquet as pq

    (row,) = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert json.loads(row["made_with"])["avatar_used"] is False


def test_a_damaged_file_is_named_and_fitted_again(
    places: tuple[Path, Path], model: GuavaModel, tmp_path: Path, fits: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = AvatarStore(tmp_path, "fast", "weights")
    video = TrackedVideo.open(places[0], "clip")
    path = store.get(model, video).path
    assert not store.get(model, video).is_new and fits == ["clip"]
    whole = path.read_bytes()
    for damaged in (whole[:-200], whole[: len(whole) // 2] + b"x" + whole[len(whole) // 2 + 1 :], b""):
        path.write_bytes(damaged)
        caplog.clear()
        assert store.get(model, video).is_new
        assert str(path) in caplog.text and "it is fitted again" in caplog.text
    other = AvatarStore(tmp_path, "fast", "other weights")
    other.path("clip", other.fingerprint(model, video)).write_bytes(path.read_bytes())
    assert other.get(model, video).is_new and "of other settings" in caplog.text
    assert len(fits) == 5 and sorted(p.suffix for p in path.parent.iterdir()) == [".safetensors"] * 2


def test_a_fit_depends_on_weights_body_video_preset_and_source_frame(
    places: tuple[Path, Path], model: GuavaModel, tmp_path: Path
) -> None:
    video = TrackedVideo.open(places[0], "clip")
    of = lambda **more: AvatarStore(tmp_path, more.get("preset", "fast"), more.get("weights", "w")).fingerprint(
        more.get("model", model), more.get("video", video)
    )
    moved = replace(video, viewmats=video.viewmats + 0.01)
    assets = model.body.assets
    taller = replace(assets, body=replace(assets.body, v_template=assets.body.v_template * 1.01))
    from types import SimpleNamespace

    other = SimpleNamespace(body=SimpleNamespace(assets=taller))
    found = [
        of(), of(preset="full"), of(weights="v"), of(video=moved), of(video=replace(video, source_frame=1)),
        of(model=other),
    ]  # fmt: skip
    assert len(set(found)) == len(found) and of() == found[0]


def test_threads_that_need_one_avatar_fit_it_once(
    places: tuple[Path, Path], model: GuavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[str] = []
    monkeypatch.setattr(library, "personalize_video", _painted(fits.append, seconds=0.3))
    video = TrackedVideo.open(places[0], "clip")
    found = []
    work = lambda: found.append(AvatarStore(tmp_path, "fast", "w").get(model, video))
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fits == ["clip"] and sorted(f.is_new for f in found) == [False, False, True]


PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
import guava_aug.avatar.personalize as library
from batch.test_avatars import _painted
from guava_aug.cli import main
from pathlib import Path

def on_fit(name):
    with open(sys.argv[2], "a") as file:
        file.write("fit\\n")

library.personalize_video = _painted(on_fit, seconds=float(sys.argv[3]))
sys.exit(main(sys.argv[4:]))
"""


def _process(log: Path, seconds: float, words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(TESTS), str(log), str(seconds), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=child_environment(),
    )  # fmt: skip


def test_a_killed_fit_leaves_nothing_half_and_is_made_again(
    places: tuple[Path, Path], model: GuavaModel, tmp_path: Path, fits: list[str]
) -> None:
    tracked, weights = places
    out, log = tmp_path / "out", tmp_path / "fits"
    words = ["personalize", str(tracked), "--model_path", str(weights), "--device", "cpu", "--personalize", "fast",
             "--avatar_root", str(out / ".guava-aug" / "avatars")]  # fmt: skip
    child = _process(log, 600, words)
    while not log.exists():
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert [p.suffix for p in _avatar_files(out)] == [".lock"]
    assert augment(tracked, out, model=model, personalize="fast", **VIEW).ok
    assert fits == ["clip"] and [p.suffix for p in _avatar_files(out)] == [".safetensors"]


@pytest.mark.thorough
def test_two_processes_race_for_one_avatar(places: tuple[Path, Path], tmp_path: Path) -> None:
    tracked, weights = places
    log = tmp_path / "fits"
    words = ["--model_path", str(weights), "--device", "cpu", "--personalize", "fast", "--difficulties", "easy",
             "--background", "black", "--avatar_root", str(tmp_path / "avatars")]  # fmt: skip
    children = [_process(log, 5.0, ["run", str(tracked), str(tmp_path / name), *words]) for name in "ab"]
    said = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert log.read_text() == "fit\n"
    assert "is fitting the avatar; waiting for it" in "".join(said)
    assert np.array_equal(_made(tmp_path / "a")[0], _made(tmp_path / "b")[0])
    assert [p.suffix for p in (tmp_path / "avatars").rglob("*.*")] == [".safetensors"]


@pytest.mark.thorough
@pytest.mark.parametrize("how", [["--workers", "1"], ["--mode", "subprocess"]])
def test_other_processes_render_the_same_avatar(places: tuple[Path, Path], tmp_path: Path, how: list[str]) -> None:
    """The avatar is there; a worker, or a process per view, renders what this process does."""
    tracked, weights = places
    words = [str(tracked), "--model_path", str(weights), "--device", "cpu", "--personalize", "fast",
             "--avatar_root", str(tmp_path / "avatars")]  # fmt: skip
    view = ["--difficulties", "easy", "--background", "black"]
    assert _process(tmp_path / "fits", 0.0, ["personalize", *words]).wait() == 0
    for name, more in (("here", []), ("there", how)):
        assert main(["run", words[0], str(tmp_path / name), *words[1:], *view, *more]) == 0
    (here, beside), (there, other) = _made(tmp_path / "here"), _made(tmp_path / "there")
    assert np.array_equal(here, there) and beside == other and beside["made_with"]["avatar_used"]
    assert (tmp_path / "fits").read_text() == "fit\n"


def test_a_video_that_cannot_be_fitted_is_one_failure(
    places: tuple[Path, Path], model: GuavaModel, tmp_path: Path, fits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = library.personalize_video

    def fit(model: GuavaModel, video: TrackedVideo, *args: Any, **more: Any) -> PersonalizedVideo:
        if video.name == "short":
            raise UsageError("no frame is left")
        return painted(model, video, *args, **more)

    monkeypatch.setattr(library, "personalize_video", fit)
    tracked = tmp_path / "tracked"
    write_person(tracked, "clip", 3)
    write_person(tracked, "short", 2)
    found = augment(tracked, tmp_path / "out", model=model, personalize="fast", **VIEW)
    (failed,) = found.failed
    assert failed.video == "short" and failed.stage == "avatar fit" and failed.permanent
    assert "short: its avatar cannot be fitted (no frame is left); give --personalize off" in str(failed.error)
    assert found.count() == {"success": 1, "failed": 1}


def test_an_interrupted_fit_leaves_no_lock_and_no_file(
    places: tuple[Path, Path], model: GuavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "personalize_video", _painted(lambda name: None, seconds=10))
    with pytest.raises(KeyboardInterrupt):
        AvatarStore(tmp_path, "fast", "w", stop).get(model, TrackedVideo.open(places[0], "clip"))
    assert list((tmp_path / "clip").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"avatar of clip cannot be kept .*--avatar_root"):
        AvatarStore(tmp_path / "file", "fast", "w").get(model, TrackedVideo.open(places[0], "clip"))


def test_auto_is_full_on_a_gpu_off_on_a_cpu_and_as_before_in_a_folder_that_was_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    config = RunConfig(tmp_path / "tracked", tmp_path / "out", personalize="auto", difficulties=("easy",))
    monkeypatch.setattr("guava_aug.runtime.device.gpu_usable", lambda: True)
    assert settle(config).personalize == "full" and "there is a GPU" in caplog.text
    assert settle(replace(config, engine="ray")).personalize == "full"
    assert "if the cluster's workers have none, give --personalize off" in caplog.text
    assert settle(replace(config, device="cpu")).personalize == "off" and "on a CPU" in caplog.text
    assert settle(config, "cpu").personalize == "off" and settle(config, "cuda:0").personalize == "full"
    monkeypatch.setattr("guava_aug.runtime.device.gpu_usable", lambda: False)
    assert settle(config).personalize == "off"
    assert settle(replace(config, personalize="fast")).personalize == "fast"
    monkeypatch.setattr("guava_aug.runtime.device.gpu_usable", lambda: True)
    write_clip(tmp_path / "tracked", "clip", frames=2)
    options = {"difficulties": ["easy"], "background": "black"}
    images = tmp_path / "tracked" / "clip" / "img_lmdb"
    images.rename(tmp_path / "images")
    assert not augment(tmp_path / "tracked", tmp_path / "out", model=FakeModel(), **options).ok
    assert list((tmp_path / "out").glob("augmentation_params*.json"))
    assert settle(config).personalize == "full"  # nothing was made
    (tmp_path / "images").rename(images)
    assert augment(tmp_path / "tracked", tmp_path / "out", model=FakeModel(), **options).ok
    assert settle(config).personalize == "off" and "as the views in" in caplog.text
    assert settle(replace(config, overwrite=True)).personalize == "full"
    shutil.rmtree(tmp_path / "out" / ".guava-aug")
    assert settle(config).personalize == "off"  # its log is there


def test_off_adds_nothing_and_another_choice_in_the_same_folder_is_refused(
    places: tuple[Path, Path], model: GuavaModel, off: Path, fits: list[str]
) -> None:
    tracked = places[0]
    journal = b"".join(p.read_bytes() for p in (off / ".guava-aug" / "journal").iterdir())
    assert b'"avatar' not in journal.split(b'"kind":"view"')[1]
    with pytest.raises(UsageError, match="--personalize: made with off, this run fast"):
        augment(tracked, off, model=model, personalize="fast", **VIEW)
    assert augment(tracked, off, model=model, personalize="auto", **VIEW).count() == {"skipped": 1}
    assert fits == []


def test_the_command_makes_avatars_alone(
    places: tuple[Path, Path],
    model: GuavaModel,
    tmp_path: Path,
    fits: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tracked, weights = tmp_path / "tracked", places[1]
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **options: model)
    write_person(tracked, "clip", FRAMES)
    words = ["--model_path", str(weights), "--device", "cpu"]
    assert main(["personalise", str(tracked), "clip", *words, "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    (row,) = said["avatars"]
    assert said["complete"] and row["video"] == "clip" and row["new"] and row["used"] and row["preset"] == "fast"
    assert (row["before"], row["after"], row["frames"], row["kept_back"], row["seconds"]) == (10.0, 12.0, 4, 1, 0.5)
    assert type(row["frames"]) is int and type(row["before"]) is float
    assert Path(row["path"]).parent == tracked / ".guava-aug" / "avatars" / "clip"
    assert main(["personalize", str(tracked), "clip", "none", *words]) == 3
    shown = capfd.readouterr().out
    assert (
        "clip: avatar fitted (fast, 4 frames, 0.5 s): 10.00 dB before, 12.00 after" in shown and "(was there)" in shown
    )
    assert "failed: none" in shown and "2 avatars: 1 better than before, 1 failed" in shown
    assert "likeness of persons" in shown
    assert fits == ["clip"]
    assert main(["personalize", str(tracked), *words, "--overwrite"]) == 0 and fits == ["clip", "clip"]
    capfd.readouterr()
    assert main(["check", str(tracked), "--fast"]) == 0  # its folder of avatars is no video
    shown = capfd.readouterr().out
    assert "1 video, 1 good" in shown and "fitted avatars in " in shown and ": 1 used, 0 not" in shown
    assert "  clip: avatar fitted (fast, 4 frames, 0.5 s): 10.00 dB before, 12.00 after" in shown
    next((tracked / ".guava-aug/avatars/clip").glob("*.safetensors")).write_bytes(b"damaged")
    assert main(["check", str(tracked), "--fast", "--avatar_root", str(tracked / ".guava-aug/avatars")]) == 0
    shown = capfd.readouterr().out
    assert ": 0 used, 1 not" in shown and "clip: cannot read the avatar file" in shown
    assert main(["check", str(tracked), "--fast", "--avatar_root", str(tmp_path / "none")]) == 2


def test_an_interruption_keeps_what_is_known_by_then(
    places: tuple[Path, Path],
    model: GuavaModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    painted = _painted(lambda name: None)

    def fit(model: GuavaModel, video: TrackedVideo, *args: Any, **more: Any) -> PersonalizedVideo:
        if video.name == "second":
            raise KeyboardInterrupt
        return painted(model, video, *args, **more)

    monkeypatch.setattr(library, "personalize_video", fit)
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **options: model)
    for name in ("first", "second"):
        write_person(tmp_path, name, FRAMES)
    words = ["personalize", str(tmp_path), "--model_path", str(places[1]), "--device", "cpu", "--json"]
    assert main(words) not in (0, 3)
    shown = capfd.readouterr()
    said = json.loads(shown.out)
    assert said["complete"] is False and [row["video"] for row in said["avatars"]] == ["first"]
    assert "1 avatar: 1 better than before" in shown.err


def test_a_file_in_the_place_of_the_avatars_is_refused_by_a_dry_run_too(
    places: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = [
        "run",
        str(places[0]),
        str(tmp_path / "out"),
        "--model_path",
        str(places[1]),
        "--device",
        "cpu",
        "--dry_run",
    ]
    assert main([*words, "--personalize", "fast", "--avatar_root", str(tmp_path / "file")]) != 0
    assert "--avatar_root" in capfd.readouterr().err
    assert main([*words, "--avatar_root", str(tmp_path / "file")]) == 0  # off: nobody needs it


def test_what_fails_in_a_fit_is_told_as_what_it_is(
    places: tuple[Path, Path], model: GuavaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = TrackedVideo.open(places[0], "clip")

    def fails(error: Exception) -> Callable[..., PersonalizedVideo]:
        def fit(*args: Any, **more: Any) -> PersonalizedVideo:
            raise error

        return fit

    for error, kind, words in (
        (PermissionError(13, "kernel cache"), InputError, r"clip: the fit of its avatar stopped \(.*kernel cache"),
        (torch.cuda.OutOfMemoryError("2 GB"), OutputError, r"too little memory to fit the avatar .*2 GB"),
        (RuntimeError("CUDA error: out of memory"), OutputError, r"too little memory to fit the avatar"),
    ):
        monkeypatch.setattr(library, "personalize_video", fails(error))
        with pytest.raises(kind, match=words) as raised:
            AvatarStore(tmp_path, "fast", "w").get(model, video)
        assert "cannot be kept" not in str(raised.value)
        assert not list((tmp_path / "clip").glob("*"))
    monkeypatch.setattr(library, "personalize_video", fails(RuntimeError("CUDA error: an illegal memory access")))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        AvatarStore(tmp_path, "fast", "w").get(model, video)


def test_too_few_frames_are_named_with_the_flag_that_helps(tmp_path: Path, model: GuavaModel) -> None:
    write_person(tmp_path, "short", 2)
    with pytest.raises(InputError, match=r"short: .*3 frames at least .* has 2, of 2 frames .*--personalize off"):
        library.personalize_video(model, TrackedVideo.open(tmp_path, "short"), PersonalizeConfig())
