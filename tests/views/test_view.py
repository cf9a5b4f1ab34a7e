"""Views: the original's seeds and draws, and what a view promises beyond them."""

import copy
import dataclasses
import json
import pickle
import random

import pytest
import torch

from guava_aug.errors import InputError, UsageError
from guava_aug.views import DIFFICULTIES, View, camera_center, plan_views, seed_for
from guava_aug.views.cameras import intrinsics
from guava_aug.views.difficulty import draw
from guava_aug.views.view import recorded_params

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


VIEWMATS = torch.eye(4).repeat(3, 1, 1)
VIEWMATS[:, 2, 3] = torch.tensor([2.0, 2.5, 3.0])


@pytest.mark.parametrize(
    "view",
    [
        View("hard", 12, 7, 0.1, -0.2, 1.3),
        View("easy", 0, 7, 0.1, 0.2, 1.1, "circle"),
        View.of("orbit", "given", {"viewmats": VIEWMATS, "K": [[900, 0, 255.5], [0, 900, 250], [0, 0, 1]], "width": 512,
                                   "height": 512}),
    ],
    ids=lambda view: view.label,
)  # fmt: skip
def test_a_view_is_data(view):
    same = View.from_json(json.loads(json.dumps(view.to_json())))
    for other in (same, pickle.loads(pickle.dumps(view)), copy.deepcopy(view)):
        assert other == view and hash(other) == hash(view) and repr(other) == repr(view)
    sampler, params = recorded_params(json.loads(json.dumps(view.record())))
    assert View.of(view.label, sampler, params) == view
    with pytest.raises(dataclasses.FrozenInstanceError):
        view.sampler = "zoom"  # type: ignore[misc]
    view.params.clear()  # a copy
    assert view == same
    assert view != View.of(view.label, view.sampler, {**view.params, "more": 1})


def test_given_cameras_are_used_as_they_are_and_the_last_one_stays():
    view = View.of("mine", "given", {"viewmats": VIEWMATS})
    whole = view.cameras(SOURCE, 5, 64)
    assert torch.equal(whole.viewmats, VIEWMATS[[0, 1, 2, 2, 2]])
    assert torch.equal(view.cameras(SOURCE, 2, 64, start=2).viewmats, VIEWMATS[[2, 2]])
    assert torch.equal(whole.K, intrinsics(64, 64))
    lens = torch.tensor([[80.0, 0, 31.5], [0, 82.0, 30.0], [0, 0, 1]])
    assert torch.equal(view.cameras(SOURCE, 5, 64, K=lens).K, lens)  # the clip's
    own = view.with_params(K=lens, width=64, height=64)
    assert torch.equal(own.cameras(SOURCE, 1, 64, K=intrinsics(64, 64)).K, lens)
    assert torch.allclose(own.cameras(SOURCE, 1, 128).K, torch.tensor([[160.0, 0, 63.5], [0, 164.0, 60.5], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("sampler", "params", "message"),
    [
        ("spiral", {}, "fixed, circle, zoom"),
        ("fixed", {"yaw": 0.1}, "no parameter 'pitch'"),
        ("given", {"viewmats": [[1.0]]}, r"\[4, 4\]"),
        ("given", {"viewmats": "front"}, "mine"),
        ("fixed", {"yaw": float("nan")}, "finite"),
        ("fixed", {"yaw": {"a": 1}}, "numbers, words and lists"),
    ],
)
def test_senseless_views_are_refused(sampler, params, message):
    with pytest.raises(UsageError, match=message):
        View.of("mine", sampler, params).cameras(SOURCE, 1)


@pytest.mark.parametrize(
    "K",
    [
        torch.eye(4),
        torch.tensor([[0.0, 0, 1], [0, 1, 1], [0, 0, 1]]),
        torch.tensor([[1.0, 0.1, 1], [0, 1, 1], [0, 0, 1]]),
        torch.tensor([[1.0, 0, torch.nan], [0, 1, 1], [0, 0, 1]]),
    ],
)
def test_a_damaged_lens_is_refused(K):
    with pytest.raises(InputError, match="lens"):
        View("easy", 0, 1, 0.0, 0.0, 1.0).cameras(SOURCE, 1, K=K)
