"""A data set that grows: --keep_cameras, and where nothing is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes import FakeModel, write_clip
from guava_aug import UsageError, augment
from guava_aug.batch.config import RunConfig
from guava_aug.batch.fingerprint import RenderSettings
from guava_aug.batch.jobs import VideoJob
from guava_aug.batch.journal.history import History
from guava_aug.batch.journal.run_log import RunLog
from guava_aug.batch.keep_cameras import lists_of_root, record_lists
from guava_aug.batch.plan import make_work_list
from guava_aug.errors import OutputError
from guava_aug.output.tree import video_path
from guava_aug.views import plan_views, seed_for

NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tracked")
    for name in NAMES:
        write_clip(root, name, frames=2)
    return root


def run(tracked: Path, out: Path, *difficulties: str, videos: list[str] | None = None, **options):
    return augment(tracked, out, videos, difficulties, model=FakeModel(), **options)


def seeds(out: Path) -> dict[tuple[str, str], int]:
    return {(video, label): view.made.fields["seed"] for video, label, view in History(out).items() if view.made}


def test_views_in_the_log_keep_camera_digest_and_file(tracked: Path, tmp_path: Path):
    run(tracked, tmp_path, "easy", videos=["one", "two"], views_per_difficulty=2)
    before, views = seeds(tmp_path), History(tmp_path).views
    digests = {(v, label): view.made.fields["fingerprint"] for v in views for label, view in views[v].items()}
    files = {path: (path.stat().st_ino, path.read_bytes()) for path in tmp_path.rglob("*.mp4")}
    with pytest.raises(UsageError, match="--keep_cameras"):
        run(tracked, tmp_path, "easy", "hard", views_per_difficulty=2)
    for _ in range(2):
        result = run(tracked, tmp_path, "easy", "hard", views_per_difficulty=2, keep_cameras=True)
        assert result.ok
    assert result.count() == {"skipped": 12}
    after = seeds(tmp_path)
    assert {key: after[key] for key in before} == before
    history = History(tmp_path)
    assert {key: history.get(*key).made.fields["fingerprint"] for key in digests} == digests
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in files} == files
    both = ("easy", "hard")
    assert after["three", "easy"] == seed_for("three", both, 0)  # it was in no log
    assert {after[name, "hard"] for name in NAMES} == {seed_for(name, both, 1) for name in NAMES}
    assert run(tracked, tmp_path, "easy", "hard", "medium", keep_cameras=True).ok
    assert {key: value for key, value in seeds(tmp_path).items() if key in after} == after
    records = [json.loads((tmp_path / ".guava-aug" / f"difficulties_{n}.json").read_text()) for n in (1, 2, 3)]
    assert [record["difficulties"] for record in records] == [["easy"], [*both], [*both, "medium"]]


def test_a_lost_file_is_made_again_with_the_camera_in_the_log(tracked: Path, tmp_path: Path):
    run(tracked, tmp_path, "easy", videos=["one"])
    path = video_path(tmp_path, "easy", "one")
    content = path.read_bytes()
    path.unlink()
    assert run(tracked, tmp_path, "easy", "hard", videos=["one"], keep_cameras=True).count() == {"success": 2}
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("first", "then", "options"),
    [
        (("hard",), ("easy", "hard"), {}),
        (("easy", "hard"), ("easy", "medium", "hard"), {}),
        (("easy", "hard"), ("easy",), {}),
        (("easy",), ("easy", "hard"), {"base_seed": 7}),
    ],
)
def test_all_else_stops_in_every_part(tracked: Path, tmp_path: Path, first: tuple, then: tuple, options: dict):
    run(tracked, tmp_path, *first, videos=["one"])
    for shard in ("0/2", "1/2"):  # one of them has none of the views that are there
        with pytest.raises(UsageError, match="--keep_cameras"):
            run(tracked, tmp_path, *then, shard=shard, keep_cameras=True, **options)
    assert not list(tmp_path.glob(".guava-aug/difficulties_*"))


def test_what_is_recorded_decides_for_later_parts(tracked: Path, tmp_path: Path):
    run(tracked, tmp_path, "easy", videos=["one"])
    run(tracked, tmp_path, "easy", "hard", videos=["two"], keep_cameras=True)
    with pytest.raises(UsageError, match="begins with these"):
        run(tracked, tmp_path, "easy", "medium", videos=["three"], keep_cameras=True)
    with pytest.raises(UsageError, match="begins with these"):
        run(tracked, tmp_path, "easy", videos=["three"], keep_cameras=True)
    assert run(tracked, tmp_path, "easy", "hard", videos=["three"], keep_cameras=True).ok


def test_of_two_that_record_at_the_same_time_one_decides(tmp_path: Path):
    logged = [("one", "easy", seed_for("one", ["easy"], 0))]
    first = lists_of_root(tmp_path, ["easy", "hard"], 42, logged)
    second = lists_of_root(tmp_path, ["easy", "medium"], 42, logged)
    record_lists(tmp_path, first)
    record_lists(tmp_path, first)
    with pytest.raises(UsageError, match="another run"):
        record_lists(tmp_path, second)
    assert lists_of_root(tmp_path, ["easy", "hard"], 42, []) == first


@pytest.mark.parametrize("content", ["", "[" * 50_000, '{"format":1,"difficulties":["easy",NaN],"base_seed":42}'])
def test_a_damaged_record_is_told(tmp_path: Path, content: str):
    path = tmp_path / ".guava-aug" / "difficulties_2.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(OutputError, match="made again from the logs"):
        lists_of_root(tmp_path, ["easy", "hard"], 42, [])


def test_workers_get_the_kept_cameras(tracked: Path, tmp_path: Path):
    """A job carries its views, so a process of its own plans nothing again."""
    augment(tracked, tmp_path, ["one"], ["easy"], model=FakeModel())
    config = RunConfig(
        tracked, tmp_path, difficulties=("easy", "hard"), device="cpu", keep_cameras=True, overwrite=True
    )
    with RunLog(tmp_path) as log:
        (planned,) = make_work_list(config, ["one"], log, RenderSettings("w", "plate", 10, "veryfast"))
    old, new = plan_views("one", ["easy"])[0], plan_views("one", ["easy", "hard"])[1]
    assert planned.job.views == (old, new)
    assert VideoJob.from_json(json.loads(json.dumps(planned.job.to_json()))) == planned.job
