"""The official path whole: a full-size checkpoint in the official layout, through the command line, to MP4."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from guava_aug.avatar.model import load_model
from guava_aug.output import to_video_bytes
from guava_aug.output.tree import video_path
from guava_aug.render.background import background_for
from guava_aug.tracked import TrackedVideo
from guava_aug.views import plan_views

pytestmark = [pytest.mark.parity, pytest.mark.slow]
REPO = Path(__file__).resolve().parents[2]
NAME, FRAMES = "synthetic_clip", 2


@pytest.fixture(scope="module")
def tracked_root(shared_golden, tmp_path_factory):
    """Two frames written by the generator of the golden data, which follows the tracker's own code."""
    root = tmp_path_factory.mktemp("tracked")
    subprocess.run(
        [sys.executable, "-B", str(shared_golden / "make_tracked_example.py"), "--out", str(root), "--name", NAME]
        + ["--frames", str(FRAMES), "--minimal"],
        check=True,
        capture_output=True,
    )
    return root


def run(*args):
    script = REPO / "scripts" / "run_guava_augmentation.py"
    return subprocess.run([sys.executable, str(script), *map(str, args)], capture_output=True, text=True)


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def test_command_line_to_mp4(guava_assets, tracked_root, tmp_path):
    done = run(
        *("--batch", "--video_list", NAME, "--tracked_root", tracked_root, "--output_root", tmp_path),
        *("--difficulties", "easy", "hard", "--device", "cpu", "--model_path", guava_assets / "GUAVA"),
    )
    assert done.returncode == 0, done.stderr
    log = json.loads((tmp_path / "augmentation_params.json").read_text())[NAME]
    plan = plan_views(NAME, ["easy", "hard"])
    for view in plan:
        entry = log[view.label]
        assert [entry[k] for k in ("seed", "yaw", "pitch", "zoom")] == [view.seed, view.yaw, view.pitch, view.zoom]
        assert entry["status"] == "success"
        assert entry["tracked_path"] == os.path.join(tracked_root, NAME)
        assert entry["output_dir"] == os.path.join(tmp_path, view.label, NAME)

    # the same frame stage by stage
    model = load_model(guava_assets / "GUAVA")
    video = TrackedVideo.open(tracked_root, NAME)
    avatar = model.reconstruct(video.source)
    assert avatar.num_gaussians > 190_000
    chunk = next(iter(video.chunks(FRAMES)))
    view = plan[1]
    rgb = model.render(
        avatar.pose(chunk.motion),
        view.cameras(video.source.viewmat, FRAMES),
        background_for(video, "plate").frames(chunk),
    )
    decoded = decode(video_path(tmp_path, view.label, NAME))
    assert decoded.shape == (FRAMES, 512, 512, 3)
    error = np.abs(decoded.astype(int) - np.asarray(to_video_bytes(rgb)))
    assert error.mean() < 3  # CRF 10, chroma at half size


@pytest.mark.thorough
def test_legacy_mode_is_a_fresh_process_per_view(guava_assets, tracked_root, tmp_path):
    """Without --batch; and the log's camera is the same as with it."""
    done = run(
        *("--video_list", NAME, "--tracked_root", tracked_root, "--output_root", tmp_path, "--difficulties", "medium"),
        *("--device", "cpu", "--model_path", guava_assets / "GUAVA", "--save_frame_png"),
    )
    assert done.returncode == 0, done.stderr
    path = video_path(tmp_path, "medium", NAME)
    assert len(decode(path)) == FRAMES
    assert sorted(p.name for p in (path.parent / "render").iterdir()) == ["00000.png", "00001.png"]
    entry = json.loads((tmp_path / "augmentation_params.json").read_text())[NAME]["medium"]
    assert (entry["yaw"], entry["status"]) == (plan_views(NAME, ["medium"])[0].yaw, "success")
