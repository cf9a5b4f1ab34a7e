"""A sink as a stranger writes it, in one file: it is found, gets what it asks for, and decides what is complete."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import FakeModel, write_clip
from guava_aug import augment
from guava_aug.avatar.model import GuavaModel, load_model
from guava_aug.errors import UsageError
from guava_aug.output import sinks
from guava_aug.output.tree import video_path, view_dir
from guava_aug.tracked import TrackedVideo
from guava_aug.views import plan_views
from person_clip import write_person
from run_outputs import tree
from tiny_model import SIZE, write_tiny_model

FRAMES = 3
HEAD = 15  # of the joints

LABELS = '''
"""Labels of a view as one .npz file."""

import numpy as np

from guava_aug.errors import OutputError
from guava_aug.output.tree import view_dir
from guava_aug.runtime.atomic import atomic_write


class LabelSink:
    help = "alpha, inverse depth, joints and cameras of every frame"
    needs = frozenset({"alpha", "inverse_depth", "joints", "cameras"})

    def __init__(self, target):
        self._path = self._path_of(target.settings, target.video, target.label)
        self._parts = {"alpha": [], "inverse_depth": [], "joints": [], "viewmats": []}
        if target.settings.overwrite:
            self._path.unlink(missing_ok=True)

    def write(self, batch):
        K, viewmats = batch.cameras
        for name, value in (
            ("alpha", batch.alpha), ("inverse_depth", batch.inverse_depth), ("joints", batch.joints),
            ("viewmats", viewmats),
        ):
            assert len(value) == len(batch), name
            self._parts[name].append(value)
        self._K = K

    def flush(self):
        pass

    def close(self):
        with atomic_write(self._path) as temporary, open(temporary, "wb") as file:
            np.savez(file, K=self._K, **{name: np.concatenate(parts) for name, parts in self._parts.items()})

    def abort(self):
        self._parts.clear()

    @classmethod
    def is_complete(cls, settings, video, label, num_frames):
        try:
            with np.load(cls._path_of(settings, video, label)) as found:
                return len(found["alpha"]) == num_frames
        except (OSError, ValueError):
            return False

    @staticmethod
    def _path_of(settings, video, label):
        return view_dir(settings.root, label, video) / "labels.npz"


SINK = LabelSink
'''

BROKEN = """
class Broken:
    help = "cannot write"
    needs = frozenset()

    def __init__(self, target):
        self.target = target

    def write(self, batch):
        if self.target.label == "hard":
            raise ValueError("no such label")

    def flush(self): ...
    def close(self): ...

    def abort(self):
        raise RuntimeError("it cannot even end")

    @classmethod
    def is_complete(cls, settings, video, label, num_frames):
        return True

SINK = Broken
"""


@pytest.fixture(autouse=True)
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files more in the folder of the sinks."""
    folder = tmp_path / "sinks"
    folder.mkdir()
    (folder / "labels.py").write_text(LABELS)
    (folder / "broken.py").write_text(BROKEN)
    monkeypatch.setattr(sinks, "__path__", [*sinks.__path__, str(folder)])
    for name in ("labels", "broken"):
        monkeypatch.delitem(sys.modules, f"{sinks.__name__}.{name}", raising=False)
        monkeypatch.delattr(sinks, name, raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GuavaModel:
    return load_model(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tracked")
    write_person(root, "clip", FRAMES)
    return root


def labels_of(out: Path, label: str = "hard") -> Path:
    return view_dir(out, label, "clip") / "labels.npz"


def test_a_sink_gets_what_it_asks_for(tracked: Path, tmp_path: Path, model: GuavaModel):
    plain, out = tmp_path / "plain", tmp_path / "out"
    options = {"difficulties": ["easy", "hard"], "model": model, "frames_per_chunk": 2}
    assert augment(tracked, plain, **options).ok
    assert augment(tracked, out, sinks=("labels",), **options).ok
    assert tree(plain) == tree(out)  # the pictures do not change

    video = TrackedVideo.open(tracked, "clip")
    source = video.source_at(model.config.feature_img_size)
    posed = model.reconstruct(source).pose(video.motion)
    for view in plan_views("clip", ["easy", "hard"]):
        cameras = view.cameras(source.viewmat, FRAMES, SIZE, K=video.lens_at(SIZE))
        raster = model.rasterize(posed, cameras)
        with np.load(labels_of(out, view.label)) as found:
            assert {name: (found[name].shape, found[name].dtype.name) for name in found} == {
                "K": ((3, 3), "float32"),
                "viewmats": ((FRAMES, 4, 4), "float32"),
                "alpha": ((FRAMES, 1, SIZE, SIZE), "float32"),
                "inverse_depth": ((FRAMES, 1, SIZE, SIZE), "float32"),
                "joints": ((FRAMES, *posed.joints.shape[1:]), "float32"),
            }
            np.testing.assert_allclose(found["alpha"], raster.alpha, atol=1e-5)
            np.testing.assert_allclose(found["inverse_depth"], raster.inverse_depth, atol=1e-6)
            np.testing.assert_allclose(found["joints"], posed.joints, atol=1e-5)
            assert found["joints"].std(axis=0).max() > 0.01  # it moves
            sidecar = json.loads(video_path(out, view.label, "clip").with_suffix(".json").read_text())
            np.testing.assert_allclose(found["K"], sidecar["K"], rtol=1e-6)
            static = np.broadcast_to(sidecar["viewmats"], (FRAMES, 4, 4))
            np.testing.assert_allclose(found["viewmats"], static, atol=1e-5)
            at_camera = found["viewmats"][0] @ np.append(found["joints"][0][HEAD], 1)
            x, y, z = found["K"] @ at_camera[:3]  # the person is seen where the head is, as far away as it is
            pixel = 0, 0, int(y / z), int(x / z)
            assert found["alpha"][pixel] > 0.1
            assert found["alpha"][pixel] / found["inverse_depth"][pixel] == pytest.approx(z, rel=0.05)


def test_what_is_not_complete_is_made_again(tracked: Path, tmp_path: Path, model: GuavaModel):
    out = tmp_path / "out"

    def run(*names: str) -> dict[str, int]:
        return augment(tracked, out, difficulties=["hard"], model=model, sinks=names).count()

    assert run() == {"success": 1}
    assert run("labels") == {"success": 1}  # the video is there, the labels are not
    assert run("labels") == {"skipped": 1}
    labels_of(out).write_bytes(b"no labels")
    assert run() == {"skipped": 1}  # nobody asks for them
    assert run("labels") == {"success": 1}
    assert run("labels") == {"skipped": 1}


def test_a_sink_that_fails_takes_only_its_view_with_it(tmp_path: Path):
    write_clip(tmp_path / "tracked", "clip", frames=FRAMES)
    out = tmp_path / "out"
    options = {"difficulties": ["easy", "hard"], "sinks": ("broken",), "retries": 0}
    result = augment(tmp_path / "tracked", out, model=FakeModel(), **options)
    assert {view.label: view.status for view in result.views} == {"easy": "success", "hard": "failed"}
    assert "no such label" in str(result.failed[0].error)
    assert set(tree(out)) == {str(video_path("", "easy", "clip"))}
    assert not [p for p in out.rglob("*") if ".tmp-" in p.name]


@pytest.mark.parametrize(("names", "extra"), [((), set()), (("png",), set()), (("labels",), {"rasterize"})], ids=str)
def test_nothing_is_computed_that_no_sink_asks_for(
    tracked: Path, tmp_path: Path, model: GuavaModel, monkeypatch: pytest.MonkeyPatch, names: tuple, extra: set
):
    """As on a fast GPU, where the pictures take another way."""
    called: set[str] = set()

    class Fast:
        fast = True

        def __getattr__(self, name: str):
            if name in ("rasterize", "render_layers", "render", "render_planes"):
                called.add(name)
            return getattr(model, name)

        def render_planes(self, posed, cameras, plate):
            called.add("render_planes")
            return torch.full((len(posed), SIZE * 3 // 2, SIZE), 128, dtype=torch.uint8), torch.zeros(len(posed))

    class Planes:
        def __init__(self, planes, broken) -> None:
            self._planes, self.shape = planes, tuple(planes.shape)

        def __len__(self) -> int:
            return len(self._planes)

        def __getitem__(self, index):
            return Planes(self._planes[index], None)

        def planes(self):
            return self._planes.numpy()

    monkeypatch.setattr("guava_aug.batch.pipeline.PendingFrames", Planes)
    monkeypatch.setattr("guava_aug.output.video.PendingFrames", Planes)
    assert augment(tracked, tmp_path / "out", difficulties=["easy"], model=Fast(), sinks=names).ok
    assert called == {"render" if "png" in names else "render_planes"} | extra


def test_names_are_checked_without_importing_a_sink(tmp_path: Path):
    assert sinks.sink_names() == ["broken", "labels", "mp4", "png"]
    assert sinks.check_sinks(["mp4", "labels", "png", "labels"]) == ["labels", "png", "mp4"]
    assert f"{sinks.__name__}.labels" not in sys.modules
    with pytest.raises(UsageError, match=r"--sinks: 'label' is not known; expected broken, labels, mp4, png"):
        augment(tmp_path, tmp_path / "out", sinks=("label",))
