"""Views: the original's seeds and draws, and what a view promises beyond them."""

import json
import random

import pytest
import torch

from guava_aug.errors import UsageError
from guava_aug.views import DIFFICULTIES, View, camera_center, plan_views, seed_for
from guava_aug.views.difficulty import draw

SOURCE = torch.eye(4)
SOURCE[2, 3] = 22.0


@pytest.fixture(scope="module")
def recorded(golden):
    return json.loads((golden / "params.json").read_text(encoding="utf-8"))


@pytest.mark.parity
def test_every_recorded_draw_is_reproduced(recorded):
    for row in recorded["rows"]:
        seed = seed_for(row["video_name"], row["difficulties"], row["diff_idx"], row["base_seed"])
        assert seed == row["seed"]
        assert draw(row["difficulty"], seed) == (row["yaw"], row["pitch"], row["zoom"])


@pytest.mark.parity
def test_ranges_are_the_originals(recorded):
    assert {
        name: {"yaw_range": list(d.yaw), "pitch_range": list(d.pitch), "zoom_range": list(d.zoom)}
        for name, d in DIFFICULTIES.items()
    } == recorded["difficulty_configs"]


@pytest.mark.parity
def test_plan_is_the_recorded_one_where_no_difficulty_repeats(recorded):
    rows = [r for r in recorded["rows"] if len(set(r["difficulties"])) == len(r["difficulties"])]
    assert rows
    for row in rows:
        view = plan_views(row["video_name"], row["difficulties"], row["base_seed"])[row["diff_idx"]]
        assert (view.label, view.seed) == (row["difficulty"], row["seed"])
        assert (view.yaw, view.pitch, view.zoom) == (row["yaw"], row["pitch"], row["zoom"])


def test_drawing_leaves_the_global_generator_alone():
    state = random.getstate()
    plan_views("clip", ["easy", "hard"], views_per_difficulty=3)
    assert random.getstate() == state


def test_more_views_do_not_change_the_first():
    first = plan_views("clip", ["easy", "hard"], 7, 1)
    more = plan_views("clip", ["easy", "hard"], 7, 3)
    assert [v.label for v in more] == ["easy", "easy_001", "easy_002", "hard", "hard_001", "hard_002"]
    assert [v for v in more if v.index == 0] == first


def test_seeds_of_further_views_do_not_depend_on_the_list():
    def extra(difficulties):
        return [v for v in plan_views("clip", difficulties, 7, 100) if v.index and v.difficulty == "hard"]

    alone = extra(["hard"])
    assert alone == extra(["easy", "hard"]) == extra(["hard", "medium", "easy"])
    assert len({v.seed for v in alone}) == 99
    assert alone[0].seed == 225091450064614  # a changed rule would give every user other cameras


@pytest.mark.parametrize("other", [("clip2", 7), ("clip", 8)])
def test_further_views_differ_by_name_and_base_seed(other):
    seeds = {v.seed for v in plan_views("clip", ["easy"], 7, 4)[1:]}
    assert seeds.isdisjoint(v.seed for v in plan_views(other[0], ["easy"], other[1], 4)[1:])


def test_further_views_stay_in_range():
    for view in plan_views("clip", list(DIFFICULTIES), 1, 50):
        ranges = DIFFICULTIES[view.difficulty]
        for value, (low, high) in ((view.yaw, ranges.yaw), (view.pitch, ranges.pitch), (view.zoom, ranges.zoom)):
            assert low <= value <= high


@pytest.mark.parametrize(
    ("difficulties", "count", "message"),
    [
        (["easy", "easy"], 1, "named twice"),
        (["esy"], 1, "did you mean 'easy'"),
        (["Hard"], 1, "did you mean 'hard'"),
        (["zzz"], 1, "easy, medium, hard"),
        ([], 1, "a list"),
        ("easy", 1, "a list"),
        (["easy"], 0, "1 or more"),
    ],
)
def test_senseless_plans_are_refused(difficulties, count, message):
    with pytest.raises(UsageError, match=message):
        plan_views("clip", difficulties, 42, count)


def test_logged_parameters_replace_the_drawn_ones():
    view = plan_views("clip", ["easy"])[0]
    kept = view.with_params(yaw=0.1, pitch=-0.05, zoom=1.02)
    assert (kept.yaw, kept.pitch, kept.zoom) == (0.1, -0.05, 1.02)
    assert (kept.label, kept.seed) == (view.label, view.seed)
    assert view.with_params(yaw=0, pitch=0, zoom=1, seed=5).seed == 5


def test_fixed_view_has_one_camera_for_all_frames():
    cameras = View("easy", 0, 1, 0.1, 0.05, 1.1).cameras(SOURCE, 5, size=256)
    assert cameras.viewmats.shape == (5, 4, 4)
    assert (cameras.viewmats == cameras.viewmats[0]).all()
    assert (cameras.width, cameras.height) == (256, 256)


@pytest.mark.parametrize("trajectory", ["circle", "zoom"])
def test_moving_view_repeats_and_can_be_cut_into_chunks(trajectory):
    view = View("easy", 0, 1, 0.3, 0.2, 1.2, trajectory)
    whole = view.cameras(SOURCE, 250).viewmats
    assert (whole[120:240] == whole[:120]).all()
    assert camera_center(whole[:120]).std(dim=0).min() > 0.1
    parts = [view.cameras(SOURCE, 125, start=s).viewmats for s in (0, 125)]
    assert (torch.cat(parts) == whole).all()


def test_unknown_trajectory_is_refused():
    with pytest.raises(UsageError, match="spiral"):
        View("easy", 0, 1, 0.0, 0.0, 1.0, "spiral").cameras(SOURCE, 1)  # type: ignore[arg-type]
