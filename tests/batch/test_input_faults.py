"""Every kind of bad input through the command: it is named with its reason, and the good videos beside it are made."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch

from fakes import FakeModel, write_clip
from forks import ForkServer
from guava_aug import augment
from guava_aug.batch.journal.history import History
from guava_aug.cli import main
from run_outputs import logged, tree


class Evil:
    """Runs a command when it is unpickled, if it can."""

    def __reduce__(self):
        return os.system, ("touch owned",)


def change_frames(clip: Path, change) -> None:
    path = clip / "optim_tracking_ehm.pkl"
    frames = pickle.loads(path.read_bytes())
    change(frames)
    path.write_bytes(pickle.dumps(frames))


def put_images(clip: Path, images: dict[str, np.ndarray | None]) -> None:
    """Changes stored pictures; None takes one away."""
    env = lmdb.open(str(clip / "img_lmdb"), map_size=2**24)
    with env.begin(write=True) as transaction:
        for key, picture in images.items():
            if picture is None:
                assert transaction.delete(key.encode())
            else:
                transaction.put(key.encode(), cv2.imencode(".png", picture)[1].tobytes())
    env.close()
    (clip / "img_lmdb" / "lock.mdb").unlink(missing_ok=True)


def truncated_images(clip: Path) -> None:
    mdb = clip / "img_lmdb" / "data.mdb"
    mdb.write_bytes(mdb.read_bytes()[:9000])


def missing_image(clip: Path) -> None:
    put_images(clip, {"frame_000001/body_image": None})


def wrong_size(clip: Path) -> None:
    put_images(clip, {"frame_000002/body_image": np.zeros((48, 48, 3), np.uint8)})


def empty_mask(clip: Path) -> None:
    put_images(clip, {"frame_000000/body_mask": np.zeros((64, 64), np.uint8)})


def nan_parameters(clip: Path) -> None:
    change_frames(clip, lambda frames: frames["frame_000001"]["flame_coeffs"]["jaw_params"].fill(np.nan))


def missing_key(clip: Path) -> None:
    change_frames(clip, lambda frames: frames["frame_000002"]["smplx_coeffs"].pop("exp"))


def no_frames(clip: Path) -> None:
    (clip / "videos_info.json").write_text(json.dumps({clip.name: {"frames_num": 0, "frames_keys": []}}))


def malicious_pickle(clip: Path) -> None:
    change_frames(clip, lambda frames: frames.update(frame_000001=Evil()))


def unknown_class(clip: Path) -> None:
    change_frames(clip, lambda frames: frames["frame_000001"].update(more=np.random.RandomState(0)))


# What is done to the video, and what the message must say.
FAULTS = {
    truncated_images: "data.mdb", missing_image: "frame_000001/body_image", wrong_size: "frame_000002",
    empty_mask: "mask is empty", nan_parameters: "jaw_params: NaN", missing_key: "smplx_coeffs/exp is missing",
    no_frames: "0 frames", malicious_pickle: "posix.system", unknown_class: "numpy.random",
}  # fmt: skip


def full_mask(clip: Path) -> None:
    put_images(clip, {f"frame_00000{i}/body_mask": np.full((64, 64), 255, np.uint8) for i in range(3)})


def test_bad_videos_among_good_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A mask that covers everything and a video of one frame are no faults."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: FakeModel())
    for change in (*FAULTS, full_mask):
        write_clip(tmp_path / "tracked", change.__name__, frames=3)
        change(tmp_path / "tracked" / change.__name__)
    write_clip(tmp_path / "tracked", "one_frame", frames=1)
    write_clip(tmp_path / "tracked", "zz_good", frames=3)
    command = ["run", "--tracked_root", "tracked", "--output_root", "out", "--device", "cpu", "--difficulties", "easy"]
    assert main(command) == 3
    capsys.readouterr()
    found = {video: views["easy"] for video, views in logged(tmp_path / "out").items()}
    assert {v for v, e in found.items() if e["status"] == "success"} == {"full_mask", "one_frame", "zz_good"}
    for change, words in FAULTS.items():
        error = found[change.__name__]["error"]
        assert words in error, (change.__name__, error)
        assert change.__name__ in error
    assert len(tree(tmp_path / "out")) == 3
    assert not (tmp_path / "owned").exists()
    assert not [p for p in (tmp_path / "out").rglob("*") if ".tmp-" in p.name]


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "all is black (3 frames)"), (float("nan"), "not finite"), (float("inf"), "not finite")],
)
def test_bad_renders_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: float, words: str
):
    model = FakeModel()
    monkeypatch.setattr(model, "render", lambda posed, cameras, plate: torch.full((len(posed), 3, 128, 128), value))
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: model)
    write_clip(tmp_path / "tracked", "a", frames=3)
    command = ["run", "--tracked_root", str(tmp_path / "tracked"), "--output_root", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu"]) == 3
    assert words in capsys.readouterr().out
    assert tree(tmp_path / "out") == {}


def test_a_frame_that_is_not_finite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By its number in the video, wherever in a chunk it lies; also in the journal."""
    model, seen = FakeModel(), [0]

    def render(posed, cameras, plate):
        pictures = torch.full((len(posed), 3, 128, 128), 0.5)
        if 0 <= (broken := 5 - seen[0]) < len(posed):
            pictures[broken] = float("nan")
        seen[0] += len(posed)
        return pictures

    monkeypatch.setattr(model, "render", render)
    write_clip(tmp_path / "tracked", "a", frames=8)
    result = augment(
        tmp_path / "tracked", tmp_path / "out", ["a"], ["easy"], model=model, frames_per_chunk=3, retries=0
    )
    assert (result.views[0].error or "").startswith("frame 5 has pixels that are not finite")
    view = History(tmp_path / "out").get("a", "easy")
    assert view is not None and view.failed is not None
    assert (view.failed.fields["stage"], view.failed.fields["frame"]) == ("render per view", 5)


def test_a_full_disk_while_pngs_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *args, **kwargs: FakeModel())
    monkeypatch.setattr("guava_aug.output.pngs.atomic_write", full)
    for name in ("a", "b"):
        write_clip(tmp_path / "tracked", name, frames=3)
    command = ["run", "--tracked_root", str(tmp_path / "tracked"), "--output_root", str(tmp_path / "out")]
    assert main([*command, "--device", "cpu", "--save_frame_png"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert "b" not in logged(tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="needs mount")
def test_a_disk_that_really_is_full(forks: ForkServer, tmp_path: Path):
    """A small tmpfs; root only."""
    small = tmp_path / "small"
    small.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0 or subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True, check=False
    ).returncode:  # fmt: skip
        pytest.skip("needs root and a right to mount")
    try:
        for i in range(40):
            write_clip(tmp_path / "tracked", f"v{i:02d}", frames=12)
        roots = ["--tracked_root", str(tmp_path / "tracked"), "--output_root", str(small / "out")]
        process = forks.start("run", *roots, "--device", "cpu", "--crf", "0")
        out, err = process.communicate()
        assert process.returncode == 2, out + err
        assert "No space left" in err or "no space" in err
        assert "Traceback" not in err
        assert err.count(" failed: ") <= 6  # not one video after the other
        assert not [p for p in small.rglob("*") if ".tmp-" in p.name]
    finally:
        subprocess.run(["umount", str(small)], check=True)
