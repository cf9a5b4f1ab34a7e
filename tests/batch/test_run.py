"""The run around a model: what is made, what is skipped, what is logged, what stops it."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from fakes import SIZE, FakeModel, write_clip
from guava_aug import OutputError, UsageError, augment, plan_views
from guava_aug.batch.journal.journal import Journal
from guava_aug.errors import AssetError
from guava_aug.output.tree import video_path
from guava_aug.output.video import read_comment
from run_outputs import frames_of, logged, tree

VIEWS = ("easy", "medium", "hard")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small clips; tests do not change them."""
    root = tmp_path_factory.mktemp("tracked")
    write_clip(root, "one", frames=5)
    write_clip(root, "two words é", frames=3, fps=25.0)
    return root


def test_all_views_of_all_videos(tracked: Path, tmp_path: Path):
    result = augment(tracked, tmp_path, model=FakeModel())
    assert result.ok
    assert [(v.video, v.label, v.status) for v in result.views] == [
        (name, label, "success") for name in ("one", "two words é") for label in VIEWS
    ]
    assert set(tree(tmp_path)) == {
        f"{label}/{name}/render_fixed_viewpoint/{name}/{name}_fixed_viewpoint_video.mp4"
        for name in ("one", "two words é")
        for label in VIEWS
    }
    pictures, rate = frames_of(video_path(tmp_path, "hard", "one"))
    assert (len(pictures), pictures[0].shape, rate) == (5, (SIZE, SIZE, 3), 30.0)
    pictures, rate = frames_of(video_path(tmp_path, "hard", "two words é"))
    assert (len(pictures), rate) == (3, 25.0)  # what the tracked data say


def test_log_holds_the_cameras_of_the_plan(tracked: Path, tmp_path: Path):
    augment(tracked, tmp_path, ["one"], ["hard", "easy"], model=FakeModel(), base_seed=7)
    entries = logged(tmp_path)["one"]
    for view in plan_views("one", ["hard", "easy"], 7):
        entry = entries[view.label]
        assert {key: entry[key] for key in ("seed", "yaw", "pitch", "zoom")} == {
            "seed": view.seed, "yaw": view.yaw, "pitch": view.pitch, "zoom": view.zoom
        }  # fmt: skip
        assert (entry["status"], entry["video_name"], entry["difficulty"]) == ("success", "one", view.label)
        assert entry["render_time"] >= 0
        assert Path(entry["output_dir"]) == tmp_path / view.label / "one"


def test_each_frame_is_posed_once_whatever_the_number_of_views(tracked: Path, tmp_path: Path):
    model = FakeModel()
    augment(tracked, tmp_path, ["one"], model=model, frames_per_chunk=2, views_per_difficulty=4)
    assert model.calls.count("infer") == 1
    assert [c for c in model.calls if c.startswith("pose")] == ["pose 2", "pose 2", "pose 1"]
    assert len([c for c in model.calls if c.startswith("render")]) == 3 * 12


def test_groups_and_chunks_do_not_change_the_pictures(tracked: Path, tmp_path: Path):
    augment(tracked, tmp_path / "a", ["one"], model=FakeModel(), views_per_difficulty=3)
    augment(
        tracked,
        tmp_path / "b",
        ["one"],
        model=FakeModel(),
        views_per_difficulty=3,
        frames_per_chunk=1,
        views_in_flight=2,
    )
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert (tmp_path / "a" / "easy_002" / "one").is_dir()


def test_second_run_makes_nothing_and_loads_nothing(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    augment(tracked, tmp_path, model=FakeModel())
    before = tree(tmp_path)
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    monkeypatch.setattr("guava_aug.tracked.TrackedVideo.open", lambda *a, **k: pytest.fail("a video was opened"))
    monkeypatch.setattr("guava_aug.batch.validate.cached_weights_digest", lambda *a: "fake")
    result = augment(tracked, tmp_path)
    assert {v.status for v in result.views} == {"skipped"}
    assert tree(tmp_path) == before
    entry = logged(tmp_path)["one"]["easy"]
    assert entry["status"] == "skipped"
    assert entry["yaw"] == plan_views("one", VIEWS)[0].yaw
    assert "render_time" in entry


def test_only_what_is_missing_or_damaged_is_made(tracked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    augment(tracked, tmp_path, model=FakeModel())
    before = tree(tmp_path)
    video_path(tmp_path, "easy", "one").unlink()
    video_path(tmp_path, "hard", "one").write_bytes(b"")
    cut = video_path(tmp_path, "medium", "two words é")
    cut.write_bytes(cut.read_bytes()[:-100])
    result = augment(tracked, tmp_path, model=FakeModel())
    assert [v.status for v in result.views] == ["success", "skipped", "success", "skipped", "success", "skipped"]
    assert tree(tmp_path) == before
    damaged = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
    assert len(damaged) == 2
    assert any("is empty" in line for line in damaged)
    assert any("cut off" in line for line in damaged)


def test_video_of_another_length_than_logged_is_made_again(tracked: Path, tmp_path: Path):
    augment(tracked, tmp_path, model=FakeModel())
    shutil.copy(video_path(tmp_path, "easy", "two words é"), video_path(tmp_path, "easy", "one"))
    assert augment(tracked, tmp_path, model=FakeModel()).count() == {"skipped": 5, "success": 1}


@pytest.mark.parametrize(
    "change", [{"base_seed": 43}, {"difficulties": ["medium", "easy", "hard"]}, {"difficulties": ["medium"]}]
)
def test_another_camera_for_a_logged_view_stops(tracked: Path, tmp_path: Path, change: dict):
    augment(tracked, tmp_path, model=FakeModel())
    before, log_before = tree(tmp_path), logged(tmp_path)
    with pytest.raises(UsageError) as caught:
        augment(tracked, tmp_path, model=FakeModel(), **change)
    old = log_before["one"]["medium"]
    new = next(
        v
        for v in plan_views("one", change.get("difficulties", VIEWS), change.get("base_seed", 42))
        if v.label == "medium"
    )
    for text in ("one / medium", str(old["yaw"]), str(new.yaw), str(old["seed"]), str(new.seed), "--overwrite"):
        assert text in str(caught.value)
    assert (tree(tmp_path), logged(tmp_path)) == (before, log_before)


def test_another_camera_is_noticed_across_parts(tracked: Path, tmp_path: Path):
    augment(tracked, tmp_path, ["one"], model=FakeModel(), part_id="0")
    with pytest.raises(UsageError, match="another camera"):
        augment(tracked, tmp_path, ["one"], model=FakeModel(), part_id="1", base_seed=1)


def test_overwrite_gives_another_camera(tracked: Path, tmp_path: Path):
    augment(tracked, tmp_path, model=FakeModel())
    before = tree(tmp_path)
    result = augment(tracked, tmp_path, model=FakeModel(), base_seed=43, overwrite=True)
    assert {v.status for v in result.views} == {"success"}
    after = tree(tmp_path)
    assert after.keys() == before.keys()
    assert all(after[k] != before[k] for k in after)
    assert logged(tmp_path)["one"]["easy"]["seed"] == plan_views("one", VIEWS, 43)[0].seed
    assert augment(tracked, tmp_path, base_seed=43, model=FakeModel()).count() == {"skipped": 6}


def test_part_id_names_the_log(tracked: Path, tmp_path: Path):
    result = augment(tracked, tmp_path, ["one"], model=FakeModel(), part_id="7")
    assert result.params_log.name == "augmentation_params_part_7.json"
    assert set(logged(tmp_path, "_part_7")) == {"one"}
    assert not (tmp_path / "augmentation_params.json").exists()


def test_pngs_on_request_and_made_up_for_later(tracked: Path, tmp_path: Path):
    augment(tracked, tmp_path, ["one"], ["easy"], model=FakeModel())
    folder = video_path(tmp_path, "easy", "one").parent / "render"
    assert not folder.exists()
    assert augment(tracked, tmp_path, ["one"], ["easy"], model=FakeModel(), save_frame_png=True).count() == {
        "success": 1
    }
    assert sorted(p.name for p in folder.iterdir()) == [f"{i:05d}.png" for i in range(5)]
    assert augment(tracked, tmp_path, ["one"], ["easy"], save_frame_png=True, model=FakeModel()).count() == {
        "skipped": 1
    }


def test_duplicates_are_done_once_and_said(tracked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    result = augment(tracked, tmp_path, ["one", "one/", "two words é", "one"], ["easy"], model=FakeModel())
    assert [v.video for v in result.views] == ["one", "two words é"]
    assert any("more than once" in r.getMessage() and "one" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("name", ["..", "a/b", "", "x" * 240, "bad \udcff"])
def test_a_name_that_cannot_be_a_folder_fails_alone(tracked: Path, tmp_path: Path, name: str):
    result = augment(tracked, tmp_path / "out", [name, "one"], ["easy"], model=FakeModel())
    assert [v.status for v in result.views] == ["failed", "success"]
    assert result.views[0].error
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_names_of_which_none_is_there_leave_no_trace(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("guava_aug.avatar.model.load_model", lambda *a, **k: pytest.fail("the model was loaded"))
    for name in ("..", "on", "two words"):
        with pytest.raises(UsageError, match=r"name|not below.*1 other video neither"):
            augment(tracked, tmp_path, [name, "nowhere"])
    assert not [*tmp_path.rglob("*.json*")]
    result = augment(tracked, tmp_path, ["nowhere"], shard="0/1", model=FakeModel())  # of a list that others share
    assert result.count() == {"failed": 3}


def test_only_bad_names_and_complete_videos_load_no_model(
    tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    augment(tracked, tmp_path, ["one"], model=(model := FakeModel()))
    monkeypatch.setattr(
        "guava_aug.batch.executors.in_process.InProcessExecutor.start", lambda self: pytest.fail("the model was loaded")
    )
    assert augment(tracked, tmp_path, ["one", ".."], model=model).count() == {"skipped": 3, "failed": 3}
    shutil.copytree(tracked, moved := tmp_path / "moved", ignore=shutil.ignore_patterns("one"))
    assert augment(moved, tmp_path, ["one"], model=model).count() == {"skipped": 3}  # its data are no longer needed


def test_views_that_another_run_is_to_make_are_told(tracked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    other = Journal(tmp_path, {"host": "elsewhere", "host_id": "0" * 8, "pid": 7})
    other.append("plan", {"views": {"one": ["easy", "hard"], "another": ["easy"]}})
    augment(tracked, tmp_path, ["one"], model=FakeModel())
    assert "process 7 on elsewhere) is to make 2 views of these too" in caplog.text
    caplog.clear()
    augment(tracked, tmp_path, ["two words é"], model=FakeModel())
    assert "another run" not in caplog.text


def test_record(tracked: Path, tmp_path: Path):
    result = augment(tracked, tmp_path, ["one"], model=FakeModel(), crf=20)
    record = json.loads(result.record.read_text(encoding="utf-8"))
    assert record["config"]["crf"] == 20
    assert record["views"] == {"success": 3, "asked_for": 3}
    assert record["used"]["machine"]["device"] == "cpu"
    assert record["used"]["backgrounds"] == {"plate, static": 1}
    assert record["used"]["rasteriser"] == "fake"
    assert record["versions"]["guava_aug"]
    assert {row["stage"] for row in record["stages"]} >= {"data", "render per view", "encode wait"}


def test_an_interruption_leaves_no_temporary_file_and_the_log_of_what_was_done(tracked: Path, tmp_path: Path):
    model = FakeModel()

    def interrupt() -> None:
        if model.calls.count("infer") == 2:
            raise KeyboardInterrupt

    model.on_render = interrupt
    with pytest.raises(KeyboardInterrupt):
        augment(tracked, tmp_path, model=model)
    assert not [p for p in tmp_path.rglob("*") if ".tmp-" in p.name]
    assert len(tree(tmp_path)) == 3
    assert {k: v["status"] for k, v in logged(tmp_path)["one"].items()} == dict.fromkeys(VIEWS, "success")
    assert json.loads((tmp_path / ".guava-aug" / "last_run.json").read_text())["stopped"] == "KeyboardInterrupt"
    assert augment(tracked, tmp_path, model=FakeModel()).count() == {"skipped": 3, "success": 3}


def test_time_map_sets_the_rate(tracked: Path, tmp_path: Path):
    (tmp_path / "times.json").write_text('{"one": {"fps": 24}}')
    augment(tracked, tmp_path / "out", ["one"], ["easy"], model=FakeModel(), time_map=tmp_path / "times.json")
    assert frames_of(video_path(tmp_path / "out", "easy", "one"))[1] == 24.0
    augment(tracked, tmp_path / "out2", ["two words é"], ["easy"], model=FakeModel(), fps=12.5)
    assert frames_of(video_path(tmp_path / "out2", "easy", "two words é"))[1] == 12.5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"difficulties": ["easy", "easy"]}, "easy"),
        ({"difficulties": ["esay"]}, "esay"),
        ({"difficulties": []}, "difficulties"),
        ({"views_per_difficulty": 0}, "views_per_difficulty"),
        ({"views_in_flight": 0}, "views_in_flight"),
        ({"frames_per_chunk": 0}, "frames_per_chunk"),
        ({"crf": 60}, "crf"),
        ({"fps": 0.0}, "fps"),
        ({"preset": "fastest"}, "preset"),
        ({"backend": "magic"}, "backend"),
        ({"background": "#12"}, "background"),
        ({"part_id": "../x"}, "part_id"),
        ({"videos": "one"}, "list"),
        ({"colour": 1}, "colour"),
    ],
)
def test_usage_errors_come_before_anything_is_written(tracked: Path, tmp_path: Path, options: dict, text: str):
    with pytest.raises(UsageError, match=text):
        augment(tracked, tmp_path / "out", model=FakeModel(), **options)
    assert not (tmp_path / "out").exists()


def test_missing_folders(tracked: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="nowhere"):
        augment(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no tracked video"):
        augment(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(AssetError, match="no_model"):
        augment(tracked, tmp_path / "out", model_path="no_model")
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(tracked: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        augment(tracked, tmp_path / "file" / "out", model=FakeModel())


def test_a_view_whose_file_fails_does_not_stop_the_others(tracked: Path, tmp_path: Path):
    blocked = video_path(tmp_path, "medium", "one")
    blocked.parent.parent.mkdir(parents=True)
    blocked.parent.write_text("a file where the folder should be")
    result = augment(tracked, tmp_path, ["one"], model=FakeModel())
    assert [v.status for v in result.views] == ["success", "failed", "success"]
    assert "medium" in (result.views[1].error or "")
    assert logged(tmp_path)["one"]["medium"]["error"] == result.views[1].error


def test_a_view_that_cannot_be_rendered_does_not_stop_the_others(tracked: Path, tmp_path: Path):
    model = FakeModel()

    def fail_second() -> None:
        if len([c for c in model.calls if c.startswith("render")]) == 2:
            raise RuntimeError("no such luck")

    model.on_render = fail_second
    result = augment(tracked, tmp_path, ["one"], model=model, retries=0)
    assert [(v.label, v.status) for v in result.views] == [
        ("easy", "success"),
        ("medium", "failed"),
        ("hard", "success"),
    ]
    assert result.views[1].error == "RuntimeError: no such luck"
    assert len(tree(tmp_path)) == 2


def test_a_failed_view_may_get_another_camera(tracked: Path, tmp_path: Path):
    model = FakeModel(on_render=lambda: (_ for _ in ()).throw(RuntimeError("boom")))
    assert augment(tracked, tmp_path, ["one"], model=model).count() == {"failed": 3}
    assert augment(tracked, tmp_path, ["one"], model=FakeModel(), base_seed=1).ok


def test_model_of_the_working_directory_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from guava_aug.batch.config import RunConfig
    from guava_aug.batch.executors.in_process import model_source

    monkeypatch.chdir(tmp_path)
    root = tmp_path / "elsewhere"
    config = RunConfig(tmp_path, tmp_path, guava_root=root)
    assert model_source(config) == "embedded"
    (root / "assets" / "GUAVA").mkdir(parents=True)
    assert model_source(config) == str(root / "assets" / "GUAVA")
    (tmp_path / "assets" / "GUAVA").mkdir(parents=True)
    assert model_source(config) == str(Path("assets/GUAVA"))


def test_a_list_of_missing_videos_fails_one_by_one(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.CRITICAL)
    write_clip(tmp_path / "tracked", "there", frames=2)
    names = ["there", *(f"clip_{i:05d}" for i in range(100))]
    result = augment(tmp_path / "tracked", tmp_path / "out", names, ["easy"], model=FakeModel())
    assert result.count() == {"success": 1, "failed": 100}
    assert len(logged(tmp_path / "out")) == 101


def test_a_file_whose_log_is_lost_keeps_its_camera(tracked: Path, tmp_path: Path):
    augment(tracked, tmp_path, ["one"], ["easy"], model=FakeModel())
    before = logged(tmp_path)["one"]["easy"]
    (tmp_path / "augmentation_params.json").unlink()
    with pytest.raises(UsageError, match="another camera"):
        augment(tracked, tmp_path, ["one"], ["easy"], base_seed=9, model=FakeModel())
    assert augment(tracked, tmp_path, ["one"], ["easy"], model=FakeModel()).count() == {"skipped": 1}
    after = logged(tmp_path)["one"]["easy"]
    assert [after[k] for k in ("seed", "yaw", "pitch", "zoom")] == [before[k] for k in ("seed", "yaw", "pitch", "zoom")]


def test_an_interrupted_overwrite_goes_on_without_the_flag(tracked: Path, tmp_path: Path):
    augment(tracked, tmp_path, model=FakeModel())
    model = FakeModel()

    def interrupt() -> None:
        if model.calls.count("infer") == 2:
            raise KeyboardInterrupt

    model.on_render = interrupt
    with pytest.raises(KeyboardInterrupt):
        augment(tracked, tmp_path, base_seed=9, overwrite=True, model=model)
    assert (
        sorted(e["status"] for v in logged(tmp_path).values() for e in v.values()) == ["failed"] * 3 + ["success"] * 3
    )
    result = augment(tracked, tmp_path, base_seed=9, model=FakeModel())
    assert result.count() == {"skipped": 3, "success": 3}
    for view in result.views:
        assert json.loads(read_comment(view.path))["yaw"] == view.yaw == logged(tmp_path)[view.video][view.label]["yaw"]


def test_what_the_model_says_of_a_video_is_said_once_however_often_it_is_tried(
    tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def avatar(self, raw, identity):
        logging.getLogger("guava_aug.avatar.model").warning("the tracked person has another shape")
        raise RuntimeError("no avatar")

    monkeypatch.setattr(FakeModel, "avatar", avatar)
    caplog.set_level(logging.INFO, "guava_aug")
    result = augment(tracked, tmp_path, ["one", "two words é"], ["easy"], model=FakeModel(), retries=2)
    assert len(result.failed) == 2
    said = [record.getMessage() for record in caplog.records]
    assert sum("trying 1 failed view again" in text for text in said) == 4
    assert said.count("the tracked person has another shape") == 2  # once for each video
    assert logging.getLogger("guava_aug.avatar.model").filters == []
