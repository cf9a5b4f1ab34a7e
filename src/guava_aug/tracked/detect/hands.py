"""Both hands of a person whose pose is known: 21 landmarks each, presence and handedness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guava_aug.tracked.detect import regions
from guava_aug.tracked.detect.boxes import Detector
from guava_aug.tracked.detect.landmarks import HAND_POINTS, LEFT, RIGHT
from guava_aug.tracked.detect.pose import Pose, detect_in
from guava_aug.tracked.detect.run_nets import NetRunner

PALM_DETECTOR = Detector(size=192, strides=(8, 16, 16, 16), num_keypoints=7)
MIN_PRESENCE = 0.5
SIDES = (LEFT, RIGHT)
_SHOULDERS = (11, 12)  # of the pose landmarks
_ELBOWS, _WRISTS, _PINKIES, _INDICES = (13, 14), (15, 16), (17, 18), (19, 20)  # left, right
_VISIBLE = 0.1  # least visibility of the pose's wrist
_AROUND_POSE_HAND, _AROUND_LANDMARKS, _SHIFT = 2.7, 2.0, -0.1
_TOLERANCE = regions.Tolerance(rotation=np.deg2rad(40.0), translation=0.2, scale=0.4, margin=-0.1)
_PALM_WRIST, _PALM_MIDDLE = 0, 2  # keypoints of the palm detection
_AROUND_PALM, _PALM_SHIFT = 2.6, -0.5
_Z_SCALE = 0.4  # the net's z is divided by it
_HAND_WRIST = 0

# Where the pose gives no hand. Lengths are in widths of the shoulders.
_SEARCH = 1.6  # side of the region in which palms are looked for
_OUTSIDE = 0.25  # a wrist farther outside the picture is not looked for
_FROM_POSE = 0.7  # a hand's wrist is at most this far from the pose's wrist,
_FROM_LAST = 0.6  # or from where it was in the last frame in which it was seen
_REMEMBERED = 5  # frames for which that holds
_SAME_PLACE = 0.08  # two hands whose landmarks are closer than this share of the hand's size are one,
_NEARLY = 0.25  # and so are those closer than this if both have the shape of the same side; palms put together do not
_REST = 4  # after a fruitless search every fourth frame is searched


@dataclass(frozen=True)
class Hand:
    """One hand in one picture, in its pixels."""

    points: np.ndarray  # [21,3] px
    world: np.ndarray  # [21,3] metres
    presence: float  # 0..1
    leftness: float  # 0..1, probability that it is a left hand


class HandTracker:
    """Finds both hands in frame after frame.

    The pose's wrist and knuckles say where to look, a small net refines that, and the region of the last frame's
    landmarks is kept while the hand hardly moves (MediaPipe Holistic). Where this shows no hand, the last frame's
    region and a palm detector near the wrist are tried; a hand that both sides claim goes to one of them.
    """

    def __init__(self, run: NetRunner) -> None:
        self._run = run
        self._anchors = PALM_DETECTOR.anchors()
        self.reset()

    def reset(self) -> None:
        """Forget the last frames."""
        self._last: list[Hand | None] = [None, None]
        self._age = [0, 0]  # frames since `_last` was seen
        self._fruitless = [0, 0]  # searches

    def window(self, pictures: Sequence[np.ndarray], poses: Sequence[Pose | None]) -> list[list[Hand | None]]:
        """Return the left and the right hand in each of the next pictures; None where it is not seen.

        Args:
            pictures: [H, W, 3] uint8 each, at least one.
            poses: The person in each; None: nobody, and nothing is known of the frames before any more.
        """
        fresh = self._fresh_regions(pictures, poses)
        found: list[list[Hand | None]] = []
        for picture, pose, regions_of_pose in zip(pictures, poses, fresh, strict=True):
            if pose is None:
                self.reset()
                found.append([None, None])
            else:
                found.append(self._step(picture, pose.points[:, :2], regions_of_pose))
        return found

    def _step(self, picture: np.ndarray, pose: np.ndarray, fresh: list[np.ndarray | None]) -> list[Hand | None]:
        """Return both hands in the next picture, whose pose [33, 2] px says where they are."""
        hands = self._look(picture, [self._kept_or(fresh[side], side) for side in SIDES])
        hands = _without_twins(hands, pose, self._last)
        for side in SIDES:
            if hands[side] is None:
                hands[side] = self._search(picture, pose, side, hands[1 - side])
            if hands[side] is None:
                self._age[side] += 1
                if self._age[side] > _REMEMBERED:
                    self._last[side] = None
            else:
                self._last[side], self._age[side] = hands[side], 0
        return hands

    def _fresh_regions(
        self, pictures: Sequence[np.ndarray], poses: Sequence[Pose | None]
    ) -> list[list[np.ndarray | None]]:
        """Return, per picture, the region of each hand as Holistic has it, from the pose alone."""
        fresh: list[list[np.ndarray | None]] = [[None, None] for _ in pictures]
        around = {
            (i, side): _pose_hand(pose.points[:, :2], side)
            for i, pose in enumerate(poses) if pose is not None
            for side in SIDES if pose.visibility[_WRISTS[side]] >= _VISIBLE
        }  # fmt: skip
        around = {key: region for key, region in around.items() if regions.usable(region)}
        if not around:
            return fresh
        size = self._run.size("hand_recrop")
        out = self._run("hand_recrop", [regions.crop(pictures[i], region, size) for (i, _), region in around.items()])
        points = out["crop"].reshape(-1, 2, 2).astype(np.float64) / size
        for ((i, side), region), raw in zip(around.items(), points, strict=True):
            centre, rim = regions.to_picture(raw, region)
            fresh[i][side] = regions.grow(regions.from_centre_and_rim(centre, rim, -regions.UP), 1.0, _SHIFT)
        return fresh

    def _kept_or(self, fresh: np.ndarray | None, side: int) -> np.ndarray | None:
        """Return the region of the last frame's hand if it hardly moves, else the one found afresh."""
        last = self._last[side]
        if fresh is None or last is None or self._age[side] > 0:
            return fresh
        kept = _landmark_region(last)
        return kept if regions.may_keep(kept, last.points[:, :2], fresh, _TOLERANCE) else fresh

    def _look(self, picture: np.ndarray, where: list[np.ndarray | None]) -> list[Hand | None]:
        """Return what the net sees in each region."""
        found: list[Hand | None] = [None] * len(where)
        use = [i for i, r in enumerate(where) if r is not None and regions.usable(r)]
        if not use:
            return found
        size = self._run.size("hand_landmark_full")
        at = np.stack([where[i] for i in use])  # type: ignore[misc]  # usable ones are arrays
        out = self._run("hand_landmark_full", [regions.crop(picture, r, size) for r in at])
        points = out["landmarks"].reshape(-1, HAND_POINTS, 3).astype(np.float64) / size
        points[..., 2] /= _Z_SCALE
        points = regions.to_picture(points, at)
        world = regions.turn_world(out["world"].reshape(-1, HAND_POINTS, 3), at)
        presence, handedness = out["presence"].reshape(-1), out["handedness"].reshape(-1)
        for k, i in enumerate(use):
            if presence[k] >= MIN_PRESENCE:
                found[i] = Hand(points[k], world[k], float(presence[k]), 1 - float(handedness[k]))
        return found

    def _search(self, picture: np.ndarray, pose: np.ndarray, side: int, other: Hand | None) -> Hand | None:
        """Return the hand of a side in its last region or at a palm near the pose's wrist, or None."""
        last = self._last[side]
        if last is not None and self._age[side] == 0:
            again = self._look(picture, [_landmark_region(last)])[0]
            if again is not None and self._plausible(again, pose, side, other):
                return again
        wrist, shoulders = pose[_WRISTS[side]], _shoulder_width(pose)
        height, width = picture.shape[:2]
        outside = np.maximum(-wrist, wrist - (width, height)).max()
        if shoulders < 1 or outside > _OUTSIDE * shoulders:
            return None
        self._fruitless[side] += 1
        if self._fruitless[side] > _REST and self._fruitless[side] % _REST:
            return None
        centre = wrist if last is None else (wrist + last.points[_HAND_WRIST, :2]) / 2
        around = np.array([*centre, _SEARCH * shoulders, _SEARCH * shoulders, 0.0])
        (palms,) = detect_in(self._run, "palm_detection_full", PALM_DETECTOR, self._anchors, [(picture, around)])
        where = []
        for palm in palms:
            box = palm.box.reshape(2, 2)
            region = regions.from_box(box, palm.keypoints[_PALM_WRIST], palm.keypoints[_PALM_MIDDLE], regions.UP)
            where.append(regions.grow(region, _AROUND_PALM, _PALM_SHIFT))
        seen = [h for h in self._look(picture, list(where)) if h is not None]
        seen = [h for h in seen if self._plausible(h, pose, side, other)]
        if not seen:
            return None
        self._fruitless[side] = 0
        return max(seen, key=lambda h: h.presence)

    def _plausible(self, hand: Hand, pose: np.ndarray, side: int, other: Hand | None) -> bool:
        """Return whether a hand found by a search is that of this side."""
        if _leftness_of(hand, side) < 0.5 or (other is not None and _are_one(hand, other)):
            return False
        shoulders = _shoulder_width(pose)
        wrist, last = hand.points[_HAND_WRIST, :2], self._last[side]
        if np.linalg.norm(wrist - pose[_WRISTS[side]]) < _FROM_POSE * shoulders:
            return True
        return last is not None and bool(np.linalg.norm(wrist - last.points[_HAND_WRIST, :2]) < _FROM_LAST * shoulders)


def _pose_hand(pose: np.ndarray, side: int) -> np.ndarray:
    """Return the region [5] of a hand from the pose's wrist and the roots of the little and the index finger."""
    wrist = pose[_WRISTS[side]]
    middle = (2 * pose[_INDICES[side]] + pose[_PINKIES[side]]) / 3
    length = 2 * np.linalg.norm(middle - wrist)
    region = np.array([*middle, length, length, regions.rotation_of(wrist, middle, regions.UP)])
    return regions.grow(region, _AROUND_POSE_HAND, _SHIFT)


def _landmark_region(hand: Hand) -> np.ndarray:
    return regions.grow(regions.from_hand(hand.points), _AROUND_LANDMARKS, _SHIFT)


def _shoulder_width(pose: np.ndarray) -> float:
    """Return the width of the shoulders in pixels; of a person who stands sideways, an upper arm's length."""
    left, right = pose[list(_SHOULDERS)]
    arms = np.linalg.norm(pose[list(_ELBOWS)] - pose[list(_SHOULDERS)], axis=1)
    return float(max(np.linalg.norm(left - right), arms.max()))


def _leftness_of(hand: Hand, side: int) -> float:
    """Return the probability that a hand is of this side, by its shape."""
    return hand.leftness if side == LEFT else 1 - hand.leftness


def _are_one(a: Hand, b: Hand) -> bool:
    """Return whether two sets of landmarks lie on the same hand."""
    size = max(np.ptp(h.points[:, :2], axis=0).max() for h in (a, b))
    distance = np.linalg.norm(a.points[:, :2] - b.points[:, :2], axis=1).mean() / size
    alike = (a.leftness > 0.5) == (b.leftness > 0.5)
    return bool(distance < (_NEARLY if alike else _SAME_PLACE))


def _without_twins(hands: list[Hand | None], pose: np.ndarray, last: list[Hand | None]) -> list[Hand | None]:
    """Return the hands, with one that both sides claim left to the side it fits better."""
    left, right = hands
    if left is None or right is None or not _are_one(left, right):
        return hands
    misfit = [0.0, 0.0]
    shoulders = _shoulder_width(pose)
    for side, hand in zip(SIDES, (left, right), strict=True):
        wrist, before = hand.points[_HAND_WRIST, :2], last[side]
        misfit[side] += float(np.linalg.norm(wrist - pose[_WRISTS[side]])) / shoulders
        if before is not None:
            misfit[side] += float(np.linalg.norm(wrist - before.points[_HAND_WRIST, :2])) / shoulders
        misfit[side] += 1 - _leftness_of(hand, side)
    return [left, None] if misfit[LEFT] <= misfit[RIGHT] else [None, right]
