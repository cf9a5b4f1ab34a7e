"""Anchors, suppression, regions, swaps and smoothing: closed forms, without a net."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from guava_aug.tracked.detect import hands, pose, regions
from guava_aug.tracked.detect.boxes import Detector, intersection_over_union, suppress
from guava_aug.tracked.detect.face import DETECTOR as FACE_DETECTOR
from guava_aug.tracked.detect.landmarks import LEFT, RIGHT, Landmarks
from guava_aug.tracked.detect.nets import load_net
from guava_aug.tracked.detect.smoothing import OneEuroConstants, OneEuroFilter, smoothed
from guava_aug.tracked.detect.swaps import repair_swaps

DETECTORS = {
    "pose_detection": pose.DETECTOR,
    "palm_detection_full": hands.PALM_DETECTOR,
    "face_detection_short_range": FACE_DETECTOR,
}


@pytest.mark.parametrize("name", DETECTORS)
def test_there_are_as_many_anchors_as_the_net_has_boxes(name: str):
    detector, net = DETECTORS[name], load_net(name)
    assert detector.anchors().shape == (net.output_shapes["boxes"][0], 2)
    assert net.output_shapes["boxes"][1] == 4 + 2 * detector.num_keypoints
    assert net.size == (detector.size, detector.size)


def test_anchors_are_centres_of_cells_row_by_row():
    anchors = Detector(size=32, strides=(8, 16, 16), num_keypoints=0).anchors()
    assert len(anchors) == 4 * 4 * 2 + 2 * 2 * 4
    np.testing.assert_allclose(anchors[0], [1 / 8, 1 / 8])
    np.testing.assert_allclose(anchors[2], [3 / 8, 1 / 8])  # two anchors to a cell, then the next column
    np.testing.assert_allclose(anchors[8], [1 / 8, 3 / 8])
    np.testing.assert_allclose(anchors[-1], [3 / 4, 3 / 4])


def test_a_box_is_decoded_from_its_anchor():
    detector = Detector(size=32, strides=(8,), num_keypoints=1)
    anchors = detector.anchors()
    raw, logits = np.zeros((len(anchors), 6), np.float32), np.full(len(anchors), -1000.0)
    raw[5], logits[5] = [4, -2, 8, 16, 1, 3], 1000.0
    raw[9], logits[9] = [0, 0, -8, 8, 0, 0], 5.0  # of negative width: not a box
    (found,) = detector.decode(raw, logits, anchors)
    x, y = anchors[5]
    np.testing.assert_allclose(found.box, [x + (4 - 4) / 32, y + (-2 - 8) / 32, x + 8 / 32, y + 6 / 32])
    np.testing.assert_allclose(found.keypoints, [[x + 1 / 32, y + 3 / 32]])
    assert found.score == 1


def test_overlapping_boxes_become_their_weighted_mean():
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60], [2, 0, 12, 10]], float)
    keypoints = boxes[:, None, :2]
    first, second = suppress(boxes, keypoints, np.array([0.6, 0.9, 0.8, 0.3]))
    assert (first.score, second.score) == (0.9, 0.8)
    weights = np.array([0.6, 0.9, 0.3]) / 1.8
    np.testing.assert_allclose(first.box, weights @ boxes[[0, 1, 3]])
    np.testing.assert_allclose(first.keypoints[0], weights @ keypoints[[0, 1, 3], 0])
    np.testing.assert_allclose(second.box, boxes[2])
    assert suppress(np.zeros((0, 4)), np.zeros((0, 1, 2)), np.zeros(0)) == []


def test_intersection_over_union():
    box = np.array([0.0, 0, 2, 2])
    others = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]], float)
    np.testing.assert_allclose(intersection_over_union(others, box), [1, 1 / 3, 0])


REGION = np.array([60.0, 50.0, 40.0, 40.0, 0.7])


def test_points_go_to_the_picture_and_back():
    points = np.random.default_rng(0).random((7, 2))
    there = regions.to_picture(points, REGION)
    np.testing.assert_allclose(regions.from_picture(there, REGION), points, atol=1e-12)
    np.testing.assert_allclose(regions.to_picture(np.array([[0.5, 0.5, 0.25]]), REGION), [[60, 50, 10]])


def test_a_crop_shows_what_to_picture_says():
    """A dot in the picture is found in the crop where its coordinates in the region say, for a turned region."""
    picture = np.zeros((100, 120, 3), np.uint8)
    cv2.circle(picture, (66, 43), 3, (255, 255, 255), -1)
    crop = regions.crop(picture, REGION, 128)
    y, x = np.argwhere(crop[..., 0] > 127).mean(0)
    expected = regions.from_picture(np.array([[66.0, 43.0]]), REGION)[0] * 128
    np.testing.assert_allclose([x, y], expected, atol=0.5)


def test_crops_are_those_of_a_warp_and_end_as_asked_at_the_rim():
    picture = np.random.default_rng(1).integers(0, 255, (90, 110, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(picture, (0, 0), 3)
    region, size = np.array([5.0, 80.0, 60.0, 60.0, -0.4]), 96
    corners = regions.to_picture(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), region)
    matrix = np.stack([(corners[1] - corners[0]) / size, (corners[2] - corners[0]) / size, corners[0]], -1)
    for replicate, border in ((True, cv2.BORDER_REPLICATE), (False, cv2.BORDER_CONSTANT)):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        theirs = cv2.warpAffine(picture, matrix, (size, size), flags=flags, borderMode=border).astype(int)
        ours = regions.crop(picture, region, size, replicate=replicate).astype(int)
        assert np.abs(ours - theirs).mean() < 1  # they may round places to 1/32 pixel in another way
        assert (ours[:, 0] == 0).all() != replicate  # the left side of the region lies outside


def test_a_whole_picture_is_copied_pixel_by_pixel():
    picture = np.random.default_rng(2).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    assert (regions.crop(picture, regions.whole_picture(48, 48), 48) == picture).all()


def test_rotation_turns_the_vector_to_the_target():
    start, end = np.array([10.0, 10.0]), np.array([13.0, 6.0])
    region = regions.from_centre_and_rim(start, end, regions.UP)
    assert region[2] == region[3] == 10
    np.testing.assert_allclose(regions.from_picture(end[None], region), [[0.5, 0.0]], atol=1e-12)  # top middle
    right = regions.from_box(np.stack([start, end]), start, end)
    assert right[4] == pytest.approx(np.arctan2(-4, 3))
    assert -np.pi <= regions.rotation_of(end, start, -regions.UP) <= np.pi


def test_growing_keeps_the_longer_side_and_moves_along_the_regions_own_axis():
    grown = regions.grow(np.array([10.0, 20.0, 4.0, 8.0, np.pi / 2]), 2.0, -0.5)
    np.testing.assert_allclose(grown, [14, 20, 16, 16, np.pi / 2])  # up, turned clockwise by 90 degrees, is right


def test_the_region_of_a_hand_is_upright_for_it():
    hand = np.zeros((21, 2))
    hand[:, 0], hand[:, 1] = np.linspace(-1, 1, 21), -np.arange(21) % 4
    hand[0], hand[[5, 9, 13]] = [0, 5], [[-1, -2], [0, -2], [1, -2]]
    upright = regions.from_hand(hand)
    assert upright[4] == pytest.approx(0)
    cos, sin = np.cos(1.1), np.sin(1.1)
    turned = regions.from_hand(hand @ np.array([[cos, sin], [-sin, cos]]) + 7)
    assert turned[4] == pytest.approx(1.1)
    np.testing.assert_allclose(turned[2:4], upright[2:4])


def test_a_region_is_kept_while_it_hardly_moved():
    tolerance = regions.Tolerance(rotation=0.5, translation=0.2, scale=0.4, margin=-0.1)
    inside = np.array([[55.0, 50.0], [65.0, 50.0]])
    kept = lambda **change: regions.may_keep(
        REGION + np.array([change.get(k, 0) for k in ("x", "y", "w", "h", "turn")]), inside, REGION, tolerance
    )
    assert kept() and kept(x=5) and kept(turn=0.4) and kept(turn=2 * np.pi)
    assert not kept(x=12) and not kept(w=20) and not kept(turn=0.6)
    assert not regions.may_keep(REGION, inside + 30, REGION, tolerance)


def test_heat_maps_move_sure_landmarks_only():
    heatmap = np.full((64, 64, 3), -20.0)
    heatmap[30, 22, 0] = 10  # sure, two cells to the right of the guess
    heatmap[30, 22, 1] = -1  # a peak, but not sure
    heatmap[30, 22, 2] = 10  # the guess is too far from it
    guess = np.array([[20.5, 30.5], [20.5, 30.5], [40.5, 30.5]]) / 64
    refined = pose.refine(guess, heatmap) * 64
    np.testing.assert_allclose(refined, [[22, 30], [20.5, 30.5], [40.5, 30.5]], atol=1e-3)
    outside = pose.refine(np.array([[-2.0, 0.5], [0.5, 1.5], [0.0, 0.0]]), heatmap)
    np.testing.assert_allclose(outside, [[-2.0, 0.5], [0.5, 1.5], [0.0, 0.0]])


def test_one_euro_follows_the_published_formula():
    euro = OneEuroFilter(OneEuroConstants(1.0, 0.5, 1.0))
    assert euro(np.array(0.0), 0.1) == 0
    alpha = lambda cutoff: 1 / (1 + 1 / (2 * np.pi * cutoff * 0.1))
    speed = alpha(1.0) * (2.0 / 0.1)
    assert euro(np.array(2.0), 0.1) == pytest.approx(alpha(1 + 0.5 * speed) * 2.0)
    euro.reset()
    assert euro(np.array(7.0), 0.1) == 7


def clip(wrists: np.ndarray, seen: np.ndarray) -> Landmarks:
    """Landmarks of a still person whose hands are points at `wrists` [T, 2, 2]."""
    count = len(wrists)
    body = np.zeros((count, 33, 3), np.float32)
    body[:, 11, 0], body[:, 12, 0] = 60, 40  # shoulders
    body[:, 15, :2], body[:, 16, :2] = [65, 60], [35, 60]  # wrists
    hand = np.zeros((count, 2, 21, 3), np.float32)
    hand[..., :2] = wrists[:, :, None] + np.arange(21)[:, None] * 0.1
    return Landmarks(
        pose=body, pose_score=np.ones((count, 33), np.float32), pose_world=body, hands=hand,
        hand_score=seen.astype(np.float32), hands_world=hand, face=np.zeros((count, 468, 3), np.float32),
        face_score=np.zeros(count, np.float32), iris=np.zeros((count, 2, 5, 2), np.float32),
        person_mask=np.zeros((count, 256, 256), np.uint8), mask_region=np.zeros((count, 5), np.float32), size=(80, 100),
    )  # fmt: skip


def moving_hands(count: int = 40) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, count)
    left = np.stack([62 + 4 * np.sin(t), 55 + 8 * np.cos(t)], -1)
    right = np.stack([38 + 4 * np.cos(t), 55 + 8 * np.sin(t)], -1)
    return np.stack([left, right], 1)


def test_hands_that_are_exchanged_for_some_frames_are_put_back():
    wrists, leftness = moving_hands(), np.tile([0.9, 0.1], (40, 1))
    wrong = np.zeros(40, bool)
    wrong[[7, 8, 9, 25, 39]] = True
    mixed, mixed_leftness = wrists.copy(), leftness.copy()
    mixed[wrong], mixed_leftness[wrong] = wrists[wrong, ::-1], leftness[wrong, ::-1]
    mixed_leftness[8] = 0.5  # blurred: the shape says nothing
    seen = np.ones((40, 2), bool)
    repaired = repair_swaps(clip(mixed, seen), mixed_leftness)
    np.testing.assert_array_equal(repaired.hands, clip(wrists, seen).hands)


def test_a_hand_found_on_the_wrong_side_moves_to_its_own():
    wrists, leftness, seen = moving_hands(), np.tile([0.9, 0.1], (40, 1)), np.ones((40, 2), bool)
    seen[10:15, RIGHT] = False
    found, found_seen, found_leftness = wrists.copy(), seen.copy(), leftness.copy()
    found[12], found_seen[12], found_leftness[12] = wrists[12, ::-1], seen[12, ::-1], leftness[12, ::-1]
    repaired = repair_swaps(clip(found, found_seen), found_leftness)
    np.testing.assert_array_equal(repaired.hand_score > 0, seen)
    np.testing.assert_array_equal(repaired.hands[12, LEFT], clip(wrists, seen).hands[12, LEFT])


def test_crossed_arms_are_not_exchanged():
    wrists, leftness = moving_hands(), np.tile([0.9, 0.1], (40, 1))
    cross = np.clip(np.abs(np.linspace(-2, 2, 40)), 0, 1)[:, None, None]  # 1: own side, 0: the other's
    crossed = cross * wrists + (1 - cross) * wrists[:, ::-1]
    seen = np.ones((40, 2), bool)
    np.testing.assert_array_equal(repair_swaps(clip(crossed, seen), leftness).hands, clip(crossed, seen).hands)


def test_smoothing_calms_a_still_hand_and_starts_anew_after_a_loss():
    rng = np.random.default_rng(3)
    still = np.tile([[62.0, 55], [38, 55]], (60, 1, 1))
    seen = np.ones((60, 2), bool)
    seen[30, LEFT] = False
    still[31:, LEFT] += 20
    noisy = clip(still + rng.normal(0, 0.002, still.shape), seen)
    calm = smoothed(noisy, 25.0)
    rest = slice(5, 30)
    assert calm.hands[rest, LEFT, 0].std(0)[:2].max() < 0.5 * noisy.hands[rest, LEFT, 0].std(0)[:2].min()
    np.testing.assert_array_equal(calm.hands[31, LEFT], noisy.hands[31, LEFT])
    assert replace(calm).frames_without_person == []


def test_tiles_cover_oblong_pictures_in_squares():
    assert len(regions.tiles(100, 110)) == 1
    whole, *tiles = regions.tiles(100, 250)
    np.testing.assert_array_equal(whole, [125, 50, 250, 250, 0])
    np.testing.assert_allclose([t[0] for t in tiles], [50, 100, 150, 200])
    assert all((t[1:] == [50, 100, 100, 0]).all() for t in tiles)
    tall = regions.tiles(250, 100)[1:]
    np.testing.assert_allclose([t[1] for t in tall], [t[0] for t in tiles])
