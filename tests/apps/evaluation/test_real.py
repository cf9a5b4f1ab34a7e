"""Figures in calibrated cameras: closed forms, and a made-up folder of two cameras."""

import json
import math

import cv2
import numpy as np
import pytest
import torch

from guava_aug.apps.evaluation.person_scores import apply_colors, match_colors, score
from guava_aug.apps.evaluation.real import CalibratedPack, evaluate_pack, observe
from guava_aug.errors import InputError, UsageError

SIZE, FRAMES = 32, 3


@pytest.fixture
def folder(tmp_path):
    """Camera a looks along z; b stands 1 m to its right. A square person of known colour before grey."""
    b = np.eye(4)
    b[0, 3] = -1.0
    K = [[20.0, 0, 15.5], [0, 20.0, 15.5], [0, 0, 1]]
    cameras = {"a": {"K": K, "viewmat": np.eye(4).tolist()},
               "b": {"K": K, "viewmat": b.tolist(), "heads": [[16, 12, 5], None, None]}}  # fmt: skip
    content = {"video": "v", "source": "a", "frames": FRAMES, "size": SIZE, "scored": [0, 2], "cameras": cameras}
    (tmp_path / "pack.json").write_text(json.dumps(content))
    for name in cameras:
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "valid.png"), np.full((SIZE, SIZE), 255, np.uint8))
        for i in range(FRAMES):
            rgb, mask = np.full((SIZE, SIZE, 3), 100, np.uint8), np.zeros((SIZE, SIZE), np.uint8)
            rgb[8:24, 8:24], mask[8:24, 8:24] = (200, 60, 40 + i), 255
            cv2.imwrite(str(tmp_path / name / f"{i:06d}.png"), rgb[..., ::-1])
            cv2.imwrite(str(tmp_path / name / f"mask_{i:06d}.png"), mask)
    identity = {"betas": 20, "flame_betas": 20, "head_scale": 3, "hand_scale": 3, "joints_offset": (55, 3)}
    motion = {
        "global_orient": (3,), "body_pose": (21, 3), "left_hand_pose": (15, 3), "right_hand_pose": (15, 3),
        "expression": (50,), "flame_expression": (50,), "jaw_pose": (3,), "eye_pose": (2, 3), "eyelids": (2,),
    }  # fmt: skip
    views = np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1))
    views[:, 2, 3] = 4.0
    (tmp_path / "fits").mkdir()
    np.savez(
        tmp_path / "fits/good.npz", viewmats=views, metres=0.5,
        **{f"identity_{k}": np.zeros(s, np.float32) for k, s in identity.items()},
        **{f"motion_{k}": np.zeros((FRAMES, *s), np.float32) for k, s in motion.items()},
    )  # fmt: skip
    return tmp_path


def test_cameras_are_placed_in_the_fitted_world(folder):
    pack = CalibratedPack(folder)
    fit = pack.fit("good")
    assert torch.equal(pack.views("a", fit).viewmats, fit.viewmats)
    point = torch.tensor([0.0, 0.0, 0.0, 1.0])  # 4 units = 2 m before a, so 1 m to the left of b, which is 2 units
    assert torch.allclose(pack.views("b", fit).viewmats[0] @ point, torch.tensor([-2.0, 0.0, 4.0, 1.0]))


def test_the_truth_itself_scores_best_and_a_hole_costs_its_area(folder):
    pack = CalibratedPack(folder)
    views = {"a": 0, "b": 1}

    def draw(hole):
        def picture(frame, camera):
            name = min(views, key=lambda n: (pack.views(n, pack.fit("good")).viewmats[0] - camera.viewmats[0]).norm())
            rgb, mask = pack.picture(name, frame)
            mask = mask.clone()
            mask[:, 8:16, 8:24] *= 1 - hole
            return rgb, mask

        return picture

    best = evaluate_pack(pack, pack.fit("good"), draw(0.0))
    assert set(best) == {"a", "b", "head b"}
    assert best["a"]["frames"] == 2 and best["head b"]["frames"] == 1
    assert best["a"]["psnr"] > 80 and best["a"]["iou"] == 1 and best["a"]["missed"] == best["a"]["extra"] == 0
    holed = evaluate_pack(pack, pack.fit("good"), draw(1.0), cameras=["a"])["a"]
    assert holed["iou"] == holed["missed"] == 0.5 and holed["extra"] == 0
    assert holed["psnr"] < 15  # laid over the colour of the surroundings, not over the true picture
    assert holed["overlap_matched"] > 45


def test_another_exposure_is_matched_and_a_plain_picture_is_flat():
    g = torch.Generator().manual_seed(0)
    true = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=g) * 0.6 + 0.2, (SIZE, SIZE))[0]
    A = torch.tensor([[0.8, 0.1, 0.0], [0.0, 0.7, 0.1], [0.1, 0.0, 0.9]])
    seen = torch.einsum("kc,chw->khw", A, true) + 0.05
    where = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    where[4:28, 4:28] = True
    mask = where[None].float()
    match = match_colors([(seen, true, where)])
    assert (apply_colors(match, seen) - true)[:, where].abs().max() < 0.02
    rows = score({0: (seen, mask)}, {0: (true, mask)}, torch.ones(SIZE, SIZE, dtype=torch.bool))
    assert rows["psnr_matched"] > rows["psnr"] + 10
    assert rows["flat"] == pytest.approx(
        -10 * math.log10(float(true[:, where].var(1, unbiased=False).mean())), abs=0.01
    )
    assert rows["ncc"] > 0.9


def test_observations_are_of_every_frame_and_camera(folder):
    pack = CalibratedPack(folder)
    seen = observe(pack, pack.fit("good"), ["a", "b"])
    assert seen.images.shape == (2 * FRAMES, 3, SIZE, SIZE) and seen.images.dtype == torch.uint8
    assert seen.frames.tolist() == [0, 1, 2, 0, 1, 2] and seen.cameras.tolist() == [0, 0, 0, 1, 1, 1]
    assert seen.images[4, :, 10, 10].tolist() == [200, 60, 41] and seen.masks[4, 0, 10, 10] == 255
    with pytest.raises(UsageError, match="'a', found"):
        observe(pack, pack.fit("good"), ["b"])


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda f: (f / "pack.json").unlink(), "cannot be read"),
        (lambda f: (f / "pack.json").write_text("{}"), "does not describe calibrated views"),
        (lambda f: (f / "fits/good.npz").write_bytes(b"no"), "no usable fit .*fits there: good"),
        (lambda f: (f / "b/000002.png").unlink(), "no picture .*000002"),
        (lambda f: (f / "b/mask_000000.png").write_bytes(b"no"), "32 x 32 pixels, found nothing readable"),
        (lambda f: cv2.imwrite(str(f / "a/valid.png"), np.zeros((8, 9), np.uint8)), "found 9 x 8 pixels"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(folder, spoil, word):
    spoil(folder)
    with pytest.raises(InputError, match=word):
        pack = CalibratedPack(folder)
        evaluate_pack(pack, pack.fit("good"), lambda i, c: (torch.zeros(3, SIZE, SIZE), torch.ones(1, SIZE, SIZE)))
