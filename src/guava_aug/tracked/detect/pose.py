"""The person in a picture: detection, choice among several, and 33 landmarks with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from guava_aug.errors import InputError
from guava_aug.tracked.detect import regions
from guava_aug.tracked.detect.boxes import Detection, Detector, sigmoid
from guava_aug.tracked.detect.landmarks import POSE_POINTS
from guava_aug.tracked.detect.run_nets import NetRunner
from guava_aug.tracked.detect.smoothing import REGION_POINTS, OneEuroFilter

Person: TypeAlias = "int | tuple[float, float] | None"

DETECTOR = Detector(size=224, strides=(8, 16, 32, 32, 32), num_keypoints=4)
MIN_PRESENCE = 0.5
_GROWTH = 1.25  # of the circle around hips and body
_HIPS, _RIM = 0, 1  # keypoints of the detection; the auxiliary landmarks are alike
_LANDMARKS, _AUXILIARY = 39, (33, 34)  # of the net
_UPPER_BODY = (11, 12, 13, 14, 15, 16, 23, 24)  # shoulders, elbows, wrists, hips
_KERNEL = 4  # cells to each side in the heat map that refines a landmark
_SURE = 0.5  # of the heat map's highest value, to be used
_SIDELINE = 0.5  # what a person at the picture's rim counts for, compared with one in the middle
_ONE_PERSON = 0.3  # of a region's side: closer ones are of one person
_SAMPLES = 5  # frames in which persons are looked for before one is chosen
_SAME = 0.5  # of the region's side: a person found again within it is the same one
_AWAY = 1.0  # seconds, after which the person may come back anywhere


@dataclass(frozen=True)
class Pose:
    """The person in one picture, in its pixels."""

    points: np.ndarray  # [33,3] px
    visibility: np.ndarray  # [33] 0..1
    world: np.ndarray  # [33,3] metres
    presence: float  # 0..1
    mask: np.ndarray  # [256,256] uint8
    region: np.ndarray  # [5] where the net looked
    next_points: np.ndarray  # [2,2] px: middle of the hips, and a point on the circle around the person


class PoseTracker:
    """Follows one person from frame to frame.

    The region of a frame is that of the last frame's landmarks; the detector runs only where there are none, or where
    the net does not see a person in it.
    """

    def __init__(self, run: NetRunner, person: Person = None, fps: float = 30.0) -> None:
        self._run = run
        self._person = person
        self._seconds = 1 / fps
        self._anchors = DETECTOR.anchors()
        self._chosen = False
        self._last: np.ndarray | None = None  # region of the person when last seen
        self._next: np.ndarray | None = None  # region for the next frame
        self._frames_away = 0
        self._smooth = OneEuroFilter(REGION_POINTS)

    def choose(self, pictures: Sequence[np.ndarray]) -> None:
        """Choose the person, if none is chosen yet, from the first pictures of a clip.

        Args:
            pictures: [H, W, 3] uint8 each, in order; a few of them are looked at.

        Raises:
            InputError: There are fewer persons than the number asked for.
        """
        if self._chosen:
            return
        sampled = [pictures[i] for i in np.unique(np.linspace(0, len(pictures) - 1, _SAMPLES).astype(int))]
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for tiled in (False, True) if self._person is None else (True,):
            found = found or [(r, p) for p in sampled if len(r := self.regions_of_persons(p, tiled))]
        if not found:
            return
        persons, picture = max(found, key=lambda f: len(f[0]))
        persons = persons[persons[:, 0].argsort()]
        if self._person is None:
            self._last = self._most_prominent(persons, picture, [r for r, _ in found])
        else:
            self._last = _asked_for(persons, self._person)
        self._chosen = self._last is not None

    def _most_prominent(self, persons: np.ndarray, picture: np.ndarray, found: list[np.ndarray]) -> np.ndarray:
        """Return the region [5] of the person who is large, central, well seen, and found in many frames.

        Args:
            persons: [N, 5], N at least 1.
            picture: The picture they are found in.
            found: Regions [M, 5] of the persons in each of some frames.
        """
        if len(persons) == 1:
            return np.asarray(persons[0])
        scores = np.zeros(len(persons))
        for i, region in enumerate(persons):
            for others in found:
                distance = _distance(others, region)
                if distance.min() < _SAME:
                    scores[i] += _prominence(others[distance.argmin()], *picture.shape[:2])
            pose = self._look(picture, region)
            scores[i] *= 0.0 if pose is None else pose.visibility[_UPPER_BODY,].mean()
        return np.asarray(persons[scores.argmax()])

    def step(self, picture: np.ndarray) -> Pose | None:
        """Return the person in the next picture, or None."""
        pose = self._look(picture, self._next) if self._next is not None else None
        if pose is None and self._chosen:
            self._smooth.reset()
            pose = self._look_everywhere(picture)
        if pose is None:
            self._next = None
            self._frames_away += 1
            return None
        self._frames_away = 0
        size = float(np.linalg.norm(pose.next_points[1] - pose.next_points[0])) * 2
        centre, rim = self._smooth(pose.next_points, self._seconds, size)
        self._next = regions.grow(regions.from_centre_and_rim(centre, rim), _GROWTH)
        self._last = self._next
        return pose

    def regions_of_persons(self, picture: np.ndarray, tiled: bool = False) -> np.ndarray:
        """Return the regions [N, 5] of all persons in a picture, the surest first.

        Args:
            picture: [H, W, 3] uint8.
            tiled: Look at squares of an oblong picture, too. The net's input is small: they show persons that are too
                small in the whole, and people on screens.
        """
        found = np.zeros((0, 5))
        tiles = regions.tiles(*picture.shape[:2])[: None if tiled else 1]
        places = [(picture, tile) for tile in tiles]
        for persons in detect_in(self._run, "pose_detection", DETECTOR, self._anchors, places):
            for person in persons:
                circle = regions.from_centre_and_rim(person.keypoints[_HIPS], person.keypoints[_RIM])
                region = regions.grow(circle, _GROWTH)
                shift = np.linalg.norm(found[:, :2] - region[:2], axis=1) / np.minimum(found[:, 2], region[2])
                if not (shift < _ONE_PERSON).any():
                    found = np.concatenate([found, region[None]])
        return found

    def _look_everywhere(self, picture: np.ndarray) -> Pose | None:
        """Return the followed person, wherever the detector finds it, or None."""
        for tiled in (False, True)[: len(regions.tiles(*picture.shape[:2]))]:
            region = self._found_again(self.regions_of_persons(picture, tiled))
            pose = self._look(picture, region) if region is not None else None
            if pose is not None:
                return pose
        return None

    def _found_again(self, found: np.ndarray) -> np.ndarray | None:
        """Return the region of the followed person among those found [N, 5], or None."""
        if self._last is None or not len(found):
            return None
        distance = _distance(found, self._last)
        if self._frames_away * self._seconds > _AWAY:  # of about the same size, at any place
            distance = np.abs(np.log(found[:, 2] / self._last[2]))
        nearest = int(distance.argmin())
        return found[nearest] if distance[nearest] < _SAME else None

    def _look(self, picture: np.ndarray, region: np.ndarray) -> Pose | None:
        if not regions.usable(region):
            return None
        name = "pose_landmark_full"
        size = self._run.size(name)
        out = self._run(name, [regions.crop(picture, region, size)])
        presence = float(out["presence"].reshape(-1)[0])
        if presence < MIN_PRESENCE:
            return None
        raw = out["landmarks"].reshape(_LANDMARKS, 5).astype(np.float64)
        points = raw[:, :3] / size
        points[:, :2] = refine(points[:, :2], out["heatmap"][0])
        points = regions.to_picture(points, region)
        world = out["world"].reshape(_LANDMARKS, 3)[:POSE_POINTS]
        return Pose(
            points=points[:POSE_POINTS],
            visibility=sigmoid(raw[:POSE_POINTS, 3]),
            world=regions.turn_world(world, region),
            presence=presence,
            mask=np.rint(sigmoid(out["mask"].reshape(size, size)) * 255).astype(np.uint8),
            region=region,
            next_points=points[_AUXILIARY, :2],
        )


def detect_in(
    run: NetRunner,
    name: str,
    detector: Detector,
    anchors: np.ndarray,
    places: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[list[Detection]]:
    """Return what a detector finds in square regions of pictures, in pixels of each picture, the surest first.

    Args:
        run: The nets.
        name: Name of the net.
        detector: Geometry of its output.
        anchors: Its anchors.
        places: Pairs of a picture [H, W, 3] uint8 and a region [5], square; outside the picture it is black.
    """
    if not places:
        return []
    out = run(name, [regions.crop(picture, region, detector.size, replicate=False) for picture, region in places])
    return [
        [
            Detection(
                regions.to_picture(d.box.reshape(2, 2), region).ravel(),
                regions.to_picture(d.keypoints, region), d.score,
            )
            for d in detector.decode(boxes, scores, anchors)
        ]
        for (_, region), boxes, scores in zip(places, out["boxes"], out["scores"], strict=True)
    ]  # fmt: skip


def refine(points: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Return landmarks moved to the centre of mass of the heat map around them, where that is sure.

    Args:
        points: [K, 2] x, y in fractions of the input.
        heatmap: [H, W, K] logits.
    """
    height, width, count = heatmap.shape
    cell = (points * (width, height)).astype(int)
    steps = np.arange(-_KERNEL, _KERNEL + 1)
    columns, rows = cell[:, 0, None] + steps, cell[:, 1, None] + steps  # [K,7]
    column_inside = (columns >= 0) & (columns < width)
    row_inside = (rows >= 0) & (rows < height)
    at = np.ix_(range(count), range(len(steps)), range(len(steps)))[0]
    logits = heatmap[rows.clip(0, height - 1)[:, :, None], columns.clip(0, width - 1)[:, None, :], at]
    weight = sigmoid(logits) * (row_inside[:, :, None] & column_inside[:, None, :])
    total = weight.sum((1, 2))
    inside = ((cell >= 0) & (cell < (width, height))).all(1)
    use = inside & (weight.max((1, 2)) >= _SURE)
    safe = np.where(use, total, 1)
    mean = np.stack([(weight.sum(1) * columns).sum(1) / width, (weight.sum(2) * rows).sum(1) / height], -1)
    return np.where(use[:, None], mean / safe[:, None], points)


def _asked_for(persons: np.ndarray, person: int | tuple[float, float]) -> np.ndarray | None:
    """Return the region [5] of the person asked for among those found [N, 5], from the left; None: not there yet."""
    if isinstance(person, int):
        if not 0 <= person < len(persons):
            raise InputError(
                f"person {person} is asked for, but the first frames show {len(persons)} (numbered from 0, from the"
                f" left); choose one of them, or give a point x,y on the person"
            )
        return np.asarray(persons[person])
    offset = np.linalg.norm(persons[:, :2] - person, axis=1) / persons[:, 2]
    return np.asarray(persons[offset.argmin()]) if offset.min() < _SAME else None


def _prominence(region: np.ndarray, height: int, width: int) -> float:
    off_centre = min(1.0, abs(region[0] / width - 0.5) * 2)
    return float(region[2] / max(width, height) * (1 - (1 - _SIDELINE) * off_centre))


def _distance(found: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Return how far regions [N, 5] are from one [5], in sides of it; another size counts as distance."""
    shift = np.linalg.norm(found[:, :2] - region[:2], axis=1) / region[2]
    return np.asarray(shift + 0.5 * np.abs(np.log(found[:, 2] / region[2])))
