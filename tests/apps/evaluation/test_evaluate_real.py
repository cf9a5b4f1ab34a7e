"""`guava-aug evaluate --real`: figures in closed form, and whole, on a clip and a folder of views."""

import json
import math
import shutil

import cv2
import numpy as np
import pytest
import torch

from guava_aug.apps.evaluation import person_scores, real_report, stability
from guava_aug.apps.evaluation.crops import part_regions
from guava_aug.apps.evaluation.landmarks import Found, landmark_scores
from guava_aug.apps.evaluation.likeness import AFTER, BEFORE, KEPT_BACK, TRUTH, Likeness, Row, Strip
from guava_aug.apps.evaluation.person_scores import apply_colors, match_backgrounds, score
from guava_aug.apps.evaluation.self_view import measure_self_view, middle_stretch, preset_of, spread
from guava_aug.apps.evaluation.stability import body_flow, warp_error
from guava_aug.assets import embedded_path
from guava_aug.avatar.model import load_model
from guava_aug.cli import main
from guava_aug.errors import InputError
from guava_aug.tracked import TrackedVideo
from guava_aug.views.cameras import Cameras, tracked_cameras
from tiny_model import write_tiny_model

CLIPS = embedded_path("clips", "signer_a").parent
S = 48


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", 64)


def textured(seed):
    g = torch.Generator().manual_seed(seed)
    return torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12, generator=g), (S, S), mode="bilinear")[0]


def square(low=12, high=36):
    mask = torch.zeros(1, S, S)
    mask[:, low:high, low:high] = 1
    return mask


def test_what_is_not_covered_costs_and_a_region_without_person_is_left_out():
    true, mask, everywhere = textured(0), square(), torch.ones(S, S, dtype=torch.bool)
    half = mask.clone()
    half[:, :, :24] = 0
    whole, holed = (score({0: (true, alpha)}, {0: (true, mask)}, everywhere, match=False) for alpha in (mask, half))
    assert whole["psnr"] > 80 and whole["ssim"] == pytest.approx(1, abs=1e-6) and whole["iou"] == 1
    assert holed["psnr"] < 25 and holed["iou"] == holed["missed"] == 0.5 and holed["ssim"] < 0.9
    corner = torch.zeros(S, S, dtype=torch.bool)
    corner[:8, :8] = True
    assert score({0: (true, mask)}, {0: (true, mask)}, everywhere, {0: corner}) == {"frames": 0.0}


def test_flip_is_used_if_it_is_there_and_else_its_column_says_how_to_get_it(monkeypatch):
    true, mask, everywhere = textured(0), square(), torch.ones(S, S, dtype=torch.bool)
    seen = []

    def flip(reference, test, kind, **options):
        seen.append((reference.shape, reference.dtype, kind, options["applyMagma"]))
        return np.abs(reference - test).mean(-1, keepdims=True), 0.0, {}

    monkeypatch.setattr(person_scores, "flip_program", lambda: flip)
    darker = (true - 0.25).clamp(min=0)
    found = score({0: (darker, mask)}, {0: (true, mask)}, everywhere, match=False)["flip"]
    assert found == pytest.approx(float((true - darker).mean(0)[mask[0] > 0].mean()), abs=1e-5)
    assert seen == [((S, S, 3), np.float32, "LDR", False)]
    monkeypatch.setattr(person_scores, "flip_program", lambda: None)
    scores = score({0: (darker, mask)}, {0: (true, mask)}, everywhere)
    assert "flip" not in scores
    monkeypatch.setattr(real_report, "flip_program", lambda: None)
    result = Likeness("v", "self view", "off", ("own",), {}, [Row(KEPT_BACK, BEFORE, "person", scores)], {}, [])
    page = real_report.markdown([result])
    assert "(needs flip-evaluator)" in page and "pip install 'guava-aug[evaluate]'" in page
    assert real_report.to_json([result])["missing"]["flip"] == person_scores.GET_FLIP


def test_real_flip_if_it_is_installed():
    pytest.importorskip("flip_evaluator")
    true, mask, everywhere = textured(0), square(), torch.ones(S, S, dtype=torch.bool)
    same, other = (score({0: (x, mask)}, {0: (true, mask)}, everywhere)["flip"] for x in (true, textured(1)))
    assert same < 1e-3 < 0.1 < other <= 1


def test_backgrounds_give_the_change_of_colour_between_cameras_without_pairs_of_pixels():
    g = torch.Generator().manual_seed(0)
    colors = torch.randn(3, 200, 200, generator=g) * torch.tensor([0.05, 0.1, 0.08])[:, None, None] + 0.5
    other = torch.randn(3, 200, 200, generator=g) * torch.tensor([0.05, 0.1, 0.08])[:, None, None] + 0.5  # more of it
    A = torch.tensor([[0.8, 0.05, 0.0], [0.05, 0.7, 0.02], [0.0, 0.02, 0.9]])  # symmetric: what is looked for
    there = torch.einsum("kc,chw->khw", A, other) + 0.04
    everywhere = torch.ones(200, 200, dtype=torch.bool)
    found = match_backgrounds([(colors, everywhere)], [(there, everywhere)])
    assert torch.allclose(found[:3], A.T, atol=0.02) and torch.allclose(found[3], torch.full((3,), 0.04), atol=0.02)
    assert torch.allclose(apply_colors(found, colors).mean((1, 2)), there.mean((1, 2)), atol=0.01)


def test_a_surface_that_keeps_its_colours_while_it_moves_has_no_error_and_flicker_has_its_own():
    """A square of two triangles, 2 m away, moves 3 pixels to the right; half of it is hidden in frame t."""
    K = torch.tensor([[40.0, 0, 23.5], [0, 40.0, 23.5], [0, 0, 1]])
    corners = torch.tensor([[-0.5, -0.5, 2.0], [0.5, -0.5, 2.0], [0.5, 0.5, 2.0], [-0.5, 0.5, 2.0]])
    cover = corners * torch.tensor([1.0, 0.5, 1.0]) + torch.tensor([0.0, -0.3, -0.4])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    step = torch.tensor([3 * 2.0 / 40, 0, 0])
    vertices = torch.stack(
        [torch.cat([corners, cover]), torch.cat([corners + step, cover - torch.tensor([9.0, 0, 0])])]
    )
    flow = body_flow(faces, vertices, Cameras(torch.eye(4).repeat(2, 1, 1), K, S, S))
    picture = textured(3)
    moved = torch.roll(picture, 3, 2)
    inside = torch.zeros(S, S, dtype=torch.bool)
    inside[16:32, 20:32] = True
    assert bool(flow.shown[28, 24]) and not bool(flow.shown[18, 24])  # hidden by the other square before
    assert warp_error(picture, moved, flow, inside) < 0.01
    assert warp_error(picture, moved + 0.1, flow, inside) == pytest.approx(25.5, abs=0.1)
    assert warp_error(picture, picture, flow, inside) > 5  # what stays behind while the body moves
    assert warp_error(picture, moved, flow, torch.zeros(S, S, dtype=torch.bool)) is None


def test_cvvdp_is_asked_as_it_wants_to_be(monkeypatch):
    asked = {}

    class Program:
        class cvvdp:
            def __init__(self, **options):
                asked.update(options)

            def predict(self, test, reference, **options):
                asked.update(options, shape=test.shape, kind=test.dtype)
                return torch.tensor(9.5), {}

    monkeypatch.setattr(stability, "cvvdp_program", lambda: Program)
    pictures = [textured(i) for i in range(3)]
    assert stability.cvvdp_jod(pictures, pictures, 25.0, torch.device("cpu")) == 9.5
    assert asked["dim_order"] == "FCHW" and asked["frames_per_second"] == 25 and asked["shape"] == (3, 3, S, S)
    assert asked["kind"] == np.uint8
    monkeypatch.setattr(stability, "cvvdp_program", lambda: None)
    assert stability.cvvdp_jod(pictures, pictures, 25.0, torch.device("cpu")) is None


def test_landmarks_count_where_both_have_them():
    nothing = math.nan
    points = lambda n, at: np.full((n, 2), at, float)
    hands = lambda *at: np.stack([points(21, a) for a in at])
    truth = [
        Found(points(468, 100), points(6, 50), hands(10, 20)),
        Found(points(468, 100), points(6, 50), hands(10, 20)),
    ]
    ours = [
        Found(points(468, 103), points(6, 50), hands(10, nothing)),
        Found(points(468, nothing), points(6, 54), hands(14, nothing)),
    ]
    found = landmark_scores(ours, truth)
    assert found["face_px"] == pytest.approx(3 * 2**0.5) and found["face_found"] == 0.5
    assert found["body_px"] == pytest.approx(2 * 2**0.5)
    assert found["hands_px"] == pytest.approx(2 * 2**0.5) and found["hands_found"] == 0.5
    assert ours[0].number_of_hands == 1 and truth[0].number_of_hands == 2


def test_head_and_hands_are_where_the_body_has_them():
    video = TrackedVideo.open(CLIPS, "signer_a")
    body = load_model("embedded", "cpu").body
    frame = 50
    camera = tracked_cameras(video.viewmats[frame], 256, K=video.lens_at(256))
    with torch.inference_mode():
        posed = body(video.identity, video.motion[frame : frame + 1])
        found = part_regions(posed, body, camera)
    head, left, right = (found[k] for k in ("head", "left hand", "right hand"))
    at = lambda region: torch.nonzero(region).float().mean(0)  # y, x
    assert (
        at(head)[0] < min(at(left)[0], at(right)[0]) and at(left)[1] > at(right)[1]
    )  # the person's left is ours right
    mask = cv2.resize(video.read_frame(frame)[1], (256, 256)) > 127
    assert 0.4 < mask[head.numpy()].mean() < 0.95  # a disc around a head has air in its corners


def test_which_frames_are_scored():
    assert spread(list(range(10)), 20) == list(range(10)) and spread(list(range(0, 40, 2)), 4) == [4, 14, 24, 34]
    assert middle_stretch(100, 4) == [47, 48, 49, 50, 51] and middle_stretch(3, 20) == [0, 1, 2]
    assert preset_of("off") == preset_of("full") and preset_of("fast", 7).steps == 7


@pytest.fixture(scope="module")
def evaluated(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("real")
    argv = ["evaluate", "--real", str(CLIPS), "--video_list", "signer_a", "--frames", "2", "--device", "cpu"]
    assert main([*argv, "--model_path", str(tiny_model), "--output", str(out)]) == 0
    return out


@pytest.mark.thorough
def test_a_clip_is_scored_in_its_own_view(evaluated):
    found = json.loads((evaluated / "evaluation.json").read_text())
    assert found["schema"] == real_report.SCHEMA and found["failed"] == {}
    (video,) = found["videos"]
    frames = video["frames"]
    assert frames["kept_back"] == list(range(2, 100, 4)) and frames["fitted"] == [] and len(frames["scored"]) == 2
    assert set(frames["scored"]) <= set(frames["kept_back"]) and len(frames["stretch"]) == 3
    rows = {(r["where"], r["state"]): r["scores"] for r in video["rows"]}
    assert {w for w, _ in rows} == {"person", "head", "left hand", "right hand"} and {s for _, s in rows} == {BEFORE}
    assert rows["person", BEFORE]["iou"] > 0.5 and rows["person", BEFORE]["psnr"] > 5
    assert set(video["motion"]) == {TRUTH, BEFORE} and set(video["motion"][TRUTH]) == {"hands_share"}
    assert video["motion"][BEFORE]["warp_error_of_video"] > 0
    page = (evaluated / "evaluation.md").read_text()
    assert "| person | before |" in page and "kept back from the fit: frames 2,6,10" in page
    picture = cv2.imread(str(evaluated / "signer_a.png"))
    assert picture.shape[0] > 2 * 512 > picture.shape[1] / 2  # two rows of truth and before


@pytest.mark.thorough
def test_pictures_of_frames_kept_back_touch_nothing_but_their_own_pose(tiny_model, tmp_path):
    """The same fit with other pictures in the frames kept back gives the same avatar, but for rounding."""
    model = load_model(tiny_model, "cpu", precision="fp32")

    class Painted(TrackedVideo):
        def read_frame(self, index, *, strict=False):
            rgb, mask = super().read_frame(index, strict=strict)
            return (255 - rgb if index in painted else rgb), mask

    video = TrackedVideo.open(CLIPS, "signer_a")
    results, avatars = [], []
    import guava_aug.apps.evaluation.self_view as module

    original = module.personalize_video

    def keeping(*args, **kwargs):
        found = original(*args, **kwargs)
        avatars.append(found.fit)
        return found

    painted: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "personalize_video", keeping)
        patch.setattr(module, "score_landmarks", lambda *args: {})
        patch.setattr(module._Stage, "steadiness", lambda *args: {})
        for _ in range(2):
            changed = Painted(**{f: getattr(video, f) for f in video.__dataclass_fields__})
            results.append(measure_self_view(model, changed, "fast", most=1, steps=2))
            painted = set(results[0].frames["kept_back"])
    assert results[0].frames == results[1].frames and results[0].frames["fitted"]
    assert not set(results[0].frames["fitted"]) & painted
    states = {r.state for r in results[0].rows}
    assert AFTER in states and len(states) == 3
    painted = set(results[0].frames["fitted"])
    avatars.append(original(model, changed, preset_of("fast", 2)).fit)
    apart = lambda k, name: float((getattr(avatars[0].avatar, name) - getattr(avatars[k].avatar, name)).abs().max())
    for name in ("features", "opacities", "uv_scales", "uv_local"):
        assert apart(1, name) < 1e-5, name
    assert apart(2, "features") > 1e-3  # frames that it is fitted to
    score_of = lambda r: next(row.scores["psnr"] for row in r.rows if (row.where, row.state) == ("person", AFTER))
    assert abs(score_of(results[0]) - score_of(results[1])) > 1  # they are compared with, though


def views_of_a_clip(folder, size):
    """A folder of two cameras that is made of a clip: the second camera is the first, from a step aside."""
    video = TrackedVideo.open(CLIPS, "signer_a")
    count = 6
    shutil.copytree(CLIPS / "signer_a", folder / "tracked/signer_a")
    K = tracked_cameras(video.viewmats[:1], size).K
    aside = torch.eye(4)
    aside[0, 3] = 0.01
    cameras = {
        "a": {"K": K.tolist(), "viewmat": torch.eye(4).tolist()},
        "b": {"K": K.tolist(), "viewmat": aside.tolist()},
    }
    content = {"video": "signer_a", "source": "a", "frames": count, "size": size, "cameras": cameras}
    (folder / "pack.json").write_text(json.dumps(content))
    for name in cameras:
        (folder / name).mkdir()
        cv2.imwrite(str(folder / name / "valid.png"), np.full((size, size), 255, np.uint8))
        for i in range(count):
            rgb, mask = (cv2.resize(x, (size, size), interpolation=cv2.INTER_AREA) for x in video.read_frame(i))
            cv2.imwrite(str(folder / name / f"{i:06d}.png"), rgb[..., ::-1])
            cv2.imwrite(str(folder / name / f"mask_{i:06d}.png"), mask)
    (folder / "fits").mkdir()
    motion = video.motion[:count]
    np.savez(
        folder / "fits/only.npz", viewmats=video.viewmats[:count].numpy(), metres=1.0,
        **{f"identity_{k}": v.numpy() for k, v in vars(video.identity).items()},
        **{f"motion_{k}": v.numpy() for k, v in vars(motion).items()},
    )  # fmt: skip


@pytest.mark.thorough
def test_calibrated_views_are_scored_in_every_camera_before_and_after(tiny_model, tmp_path, capsys):
    size = load_model(tiny_model, "cpu").config.image_size
    views_of_a_clip(tmp_path / "views", size)
    argv = ["evaluate", "--real", str(tmp_path / "views"), "--model_path", str(tiny_model), "--device", "cpu"]
    argv += ["--output", str(tmp_path / "out"), "--quiet"]
    assert main([*argv, "--personalize", "fast", "--steps", "2"]) == 0
    found = json.loads((tmp_path / "out/evaluation.json").read_text())["videos"][0]
    assert found["frames"]["kept_back"] == [2] and found["fitted_to"] == ["a"] and found["fit_of_body"] == "only"
    rows = {(r["frames_of"], r["where"], r["state"]): r["scores"] for r in found["rows"]}
    assert {w for _, w, _ in rows} >= {"a", "b", "head a", "head b"}
    assert ("kept back", "b", AFTER) in rows and rows["kept back", "a", BEFORE]["iou"] > 0.5
    assert (
        "psnr_background" in rows["kept back", "b", BEFORE] and "psnr_background" not in rows["kept back", "a", BEFORE]
    )
    assert (tmp_path / "out/signer_a_camera_b.png").is_file()
    assert "signer_a, camera b: " in capsys.readouterr().out
    assert main([*argv, "--fit_cameras", "b", "a"]) == 2 and "the source camera 'a'" in capsys.readouterr().err


def test_a_video_that_cannot_be_measured_is_named_and_the_others_go_on(tiny_model, tmp_path, monkeypatch, capsys):
    import guava_aug.apps.evaluation.self_view as module

    def measure(model, video, personalize, **more):
        if video.name == "signer_a":
            raise torch.cuda.OutOfMemoryError("2 GiB")
        if video.name == "signer_b":
            raise InputError("signer_b: no frame is kept back")
        picture = np.zeros((8, 8, 3), np.uint8)
        row = Row(KEPT_BACK, BEFORE, "person", {"psnr": 20.0, "iou": 0.9})
        return Likeness(video.name, "self view", personalize, ("own",), {}, [row], {},
                        [Strip("frame 2", video.name, (TRUTH, BEFORE), (picture, picture))])  # fmt: skip

    monkeypatch.setattr(module, "measure_self_view", measure)
    argv = ["evaluate", "--real", str(CLIPS), "--model_path", str(tiny_model), "--device", "cpu"]
    assert main([*argv, "--output", str(tmp_path)]) == 3
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert [v["name"] for v in found["videos"]] == ["signer_c"] and set(found["failed"]) == {"signer_a", "signer_b"}
    assert "too little memory" in found["failed"]["signer_a"] and (tmp_path / "signer_c.png").is_file()
    assert "signer_c: 20.00 dB, IoU 0.900" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--personalize", "full"], "--personalize is only for real people"),
        (["--real", "nowhere"], "no such folder"),
        (["--real", str(CLIPS), "--bank", "b"], "--bank is not for --real"),
        (["--real", str(CLIPS), "--source_camera", "2"], "--source_camera is not for tracked videos"),
        (["--real", str(CLIPS), "--steps", "3"], "--steps needs a fit"),
        (["--real", str(CLIPS), "--frames", "0"], "expected 1 or more"),
    ],
)
def test_wrong_flags_are_told_before_anything_is_loaded(argv, words, capsys):
    assert main(["evaluate", *argv]) == 2
    assert words in capsys.readouterr().err
