"""Output roots of version 0.1.0: they go on, and what is said of old views stays as it was to the last byte.

`golden/root_0_1_0` was made by that version with the fake model of these tests, on the clip of `write_clip`: places and
the digests of the clip's files, which depend on the libraries that wrote them, are filled in here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pyarrow.parquet as pq
import pytest

from fakes import FakeModel, write_clip
from guava_aug import TrackedVideo, UsageError, augment
from guava_aug.batch.config import RunConfig
from guava_aug.batch.fingerprint import RenderSettings, fingerprint, input_digest, input_signature
from guava_aug.batch.journal.history import History
from guava_aug.batch.options import Declared, options_of
from guava_aug.output.metadata import tag_comment, tag_of_file
from guava_aug.output.tree import sidecar_path, video_path
from guava_aug.views import View, plan_views

NAME, LABELS = "clip", ("easy", "hard")
OPTIONS = {"device": "cpu", "background": "black"}
MADE_WITH = {
    "weights": "fake", "background": "black", "crf": 10, "preset": "veryfast", "render": 1, "fps": 30.0,
    "input": "0" * 32,
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, golden: Path) -> Path:
    """An output root as version 0.1.0 left it; the tracked clip is beside it."""
    write_clip(tmp_path / "tracked", NAME, frames=3)
    digest = input_digest(TrackedVideo.open(tmp_path / "tracked", NAME))
    filled = {
        "@ROOT@": str(tmp_path), "@INPUT@": digest, "@SIGNATURE@": str(input_signature(tmp_path / "tracked", NAME)),
    }  # fmt: skip
    out, recorded = tmp_path / "out", golden / "root_0_1_0"
    places = {recorded / "journal.jsonl": out / ".guava-aug" / "journal" / "box-26936-1795796808888.jsonl"}
    places[recorded / "augmentation_params.json"] = out / "augmentation_params.json"
    for label in LABELS:
        places[recorded / f"{label}.json"] = sidecar_path(out, label, NAME)
        video = video_path(out, label, NAME)
        video.parent.mkdir(parents=True)
        video.write_bytes((recorded / f"{label}.mp4").read_bytes())
    for source, place in places.items():
        text = source.read_text(encoding="utf-8")
        for key, value in filled.items():
            text = text.replace(key, value)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return out


def run(root: Path, model: FakeModel, **options):
    return augment(root.parent / "tracked", root, [NAME], LABELS, model=model, **OPTIONS, **options)


def entries(root: Path) -> dict[str, dict]:
    return json.loads((root / "augmentation_params.json").read_text(encoding="utf-8"))[NAME]


def test_a_complete_root_is_complete(root: Path) -> None:
    before, videos = entries(root), {label: video_path(root, label, NAME).read_bytes() for label in LABELS}
    model = FakeModel()
    result = run(root, model)
    assert result.ok and result.count() == {"skipped": 2} and not model.calls
    assert all(video_path(root, label, NAME).read_bytes() == videos[label] for label in LABELS)
    after = entries(root)
    for label in LABELS:  # no new field
        assert {**after[label], "status": "success"} == before[label]
        assert list(after[label]) == list(before[label])
    assert {(video, label): view.status for video, label, view in History(root).items()} == {
        (NAME, label): "done" for label in LABELS
    }
    table = pq.read_table(root / "manifest.parquet").to_pylist()
    for row in table:
        assert (row["sampler"], json.loads(row["params"])["seed"]) == ("fixed", row["seed"])
        assert row["viewmat"] is None and row["azimuth"] is None  # that version did not write it down


def test_a_view_that_is_missing_is_made_beside_the_old_ones(root: Path) -> None:
    before, old = entries(root), video_path(root, "easy", NAME).read_bytes()
    video_path(root, "hard", NAME).unlink()
    result = run(root, FakeModel())
    assert result.ok and result.count() == {"skipped": 1, "success": 1}
    assert video_path(root, "easy", NAME).read_bytes() == old
    after = entries(root)
    assert list(after["hard"]) == list(before["hard"])
    for key in ("seed", "yaw", "pitch", "zoom", "frames", "output_dir"):
        assert after["hard"][key] == before["hard"][key]
    new = json.loads(sidecar_path(root, "hard", NAME).read_text())
    assert (new["seed"], new["yaw"]) == (before["hard"]["seed"], before["hard"]["yaw"])
    hard, easy = sorted(pq.read_table(root / "manifest.parquet").to_pylist(), key=lambda row: row["view"], reverse=True)
    assert len(hard["viewmat"]) == 16 and easy["viewmat"] is None


def test_another_camera_is_still_refused(root: Path) -> None:
    with pytest.raises(
        UsageError, match=r"(?s)another camera.*made with: seed 196342, yaw 0.0705.*this run:  seed 19634"
    ):
        run(root, FakeModel(), base_seed=43)


def test_files_of_that_version_say_their_camera(root: Path) -> None:
    for view in plan_views(NAME, LABELS):
        tag = tag_of_file(video_path(root, view.label, NAME))
        assert tag is not None and tag.camera == view.record()


RECORDED = {  # label: fingerprint, of MADE_WITH
    "easy": "7e6e37d52f00b8efcad55b80f82c6526",
    "easy_001": "6ef5240cbf13ec4cbbd662f219f6d263",
    "hard": "fbd04cf94bfead37c15fc61b9258a660",
    "hard_001": "1c568e0827a6a1317757bef25fee1b47",
}


def test_labels_fingerprints_and_tags_are_those_of_that_version() -> None:
    views = plan_views(NAME, LABELS, 42, 2)
    assert {view.label: fingerprint(view, MADE_WITH) for view in views} == RECORDED
    circle = View("easy", 0, 7, 0.35, 0.3, 1.2, "circle")
    assert fingerprint(circle, MADE_WITH) == "a80db8c82495e9ceda8ecc4c2b287028"
    assert tag_comment(views[0], RECORDED["easy"], MADE_WITH) == (
        '{"seed": 196342, "yaw": 0.07059442705321939, "pitch": 0.01885692214733288, "zoom": 0.9419546355412561, '
        '"fingerprint": "7e6e37d52f00b8efcad55b80f82c6526", "made_with": {"weights": "fake", "background": "black", '
        '"crf": 10, "preset": "veryfast", "render": 1, "fps": 30.0, "input": "00000000000000000000000000000000"}}'
    )
    assert repr(views[0]) == (  # in the digest by which a failed view is left alone
        "View(difficulty='easy', index=0, seed=196342, yaw=0.07059442705321939, pitch=0.01885692214733288, "
        "zoom=0.9419546355412561, trajectory='fixed')"
    )


PIXELS = [declared for declared in options_of(RunConfig) if declared.decides_pixels]
SHOWN = {"crf", "base_seed"}  # in every fingerprint or camera since then, as crf, preset, background and the seeds
MORE = {"overwrite", "views_per_difficulty", "save_frame_png"}  # make views or files that are not there
ELSEWHERE = {"workers", "timeout", "cpus_per_worker", "require_gpu"}  # in processes that have no fake model; not here
OTHERS = [
    declared
    for declared in options_of(RunConfig)
    if not declared.decides_pixels
    and declared.name not in SHOWN | MORE | ELSEWHERE
    and any(kind in (int, float, bool) for kind in (declared.kind, *get_args(declared.kind)))
    and declared.option.parse is None
]


def another(declared: Declared, value: Any) -> Any:
    """Return a value of an option that is not `value`, and not a usual one."""
    if declared.is_switch:
        return not value
    for kind in (declared.kind, *get_args(declared.kind)):
        if get_origin(kind) is Literal:
            return next(choice for choice in get_args(kind) if choice != value)
        if kind in (int, float):
            return (value or 0) + 1
        if kind is str:
            return f"{value}x"
    raise TypeError(f"{declared.name}: how is another value of {declared.kind} made?")


def test_there_are_such_options() -> None:
    assert "source_frame" in {declared.name for declared in PIXELS} and len(OTHERS) > 5


@pytest.mark.parametrize("declared", PIXELS, ids=lambda declared: declared.name)
def test_an_option_that_decides_pixels(root: Path, declared: Declared) -> None:
    """At the value of that version nothing is told of it; another value is a difference that is shown."""
    before = declared.option.in_0_1_0
    other = another(declared, before)
    settings = [RenderSettings.of(RunConfig(root, root, **{declared.name: value}), "w") for value in (before, other)]
    assert [declared.name in each.made_with(30, "i") for each in settings] == [False, True]
    assert repr(settings[0]) == repr(settings[1])  # in the digest by which a failed view is left alone
    assert declared.name not in {"seed", "yaw", "pitch", "zoom", "sampler", "params", "trajectory", *MADE_WITH}
    model = FakeModel()
    assert run(root, model, **{declared.name: before}).count() == {"skipped": 2} and not model.calls
    assert all(declared.name not in entry for entry in entries(root).values())
    with pytest.raises(UsageError, match=rf"--{declared.flag}: made with {before}, this run {other} \(clip / easy"):
        run(root, model, **{declared.name: other})
    assert not model.calls


@pytest.mark.parametrize("declared", OTHERS, ids=lambda declared: declared.name)
def test_an_option_that_decides_no_pixel(root: Path, declared: Declared) -> None:
    """With whatever value, what is there is complete."""
    model = FakeModel()
    result = run(root, model, **{declared.name: another(declared, declared.default)})
    assert result.count() == {"skipped": 2} and not model.calls
