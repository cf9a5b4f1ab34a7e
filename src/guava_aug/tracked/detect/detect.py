"""Landmarks of one person in every frame of a clip."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from guava_aug.errors import InputError, annotate
from guava_aug.tracked.detect.face import Face, FaceTracker
from guava_aug.tracked.detect.flatness import face_flatness
from guava_aug.tracked.detect.hands import SIDES, Hand, HandTracker
from guava_aug.tracked.detect.landmarks import (
    FACE_POINTS,
    HAND_POINTS,
    IRIS_POINTS,
    MASK_SIZE,
    POSE_POINTS,
    Landmarks,
)
from guava_aug.tracked.detect.pose import Person, Pose, PoseTracker
from guava_aug.tracked.detect.run_nets import NetRunner
from guava_aug.tracked.detect.swaps import repair_swaps

FPS = 30.0
_FLATNESS_EVERY = 8  # faces; the flatness of their colours is measured in some frames


def detect(
    frames: Iterable[np.ndarray],
    *,
    device: torch.device | str = "cpu",
    batch: int = 16,
    person: Person = None,
    stop: Callable[[], None] | None = None,
    fps: float = FPS,
) -> Landmarks:
    """Return the landmarks of one person in every frame of a clip.

    The person is chosen in the first `batch` frames that show any, followed, and all others are ignored. A frame
    without the person has scores of zero (`Landmarks.frames_without_person`). At most `batch` pictures are in memory;
    the masks lie in a temporary file. Landmarks are as found in each frame; `smoothing.smoothed` smooths them.

    Args:
        frames: [H, W, 3] uint8 RGB each, upright, all of one size; any iterable.
        device: Where the nets run.
        batch: Frames that are read together.
        person: Who is followed: None, the largest and most central; a number from 0, counted from the left in the first
            frames with a person; or a point x, y (px) on the person.
        stop: Called once per `batch` frames; raises to stop.
        fps: Frames per second, for the smoothing of where the person is looked for.

    Raises:
        InputError: A frame of another form, no frames, or a person's number that is not there.
    """
    graph = _Graph(NetRunner(device), person, fps)
    rows = _Rows()
    faces = 0
    try:
        for pictures in _batches(frames, batch):
            if stop is not None:
                stop()
            graph.pose.choose(pictures)
            poses = [graph.pose.step(picture) for picture in pictures]
            for picture, (pose, hands, face) in zip(pictures, graph.parts(pictures, poses), strict=True):
                flatness = np.nan
                if face is not None:
                    if faces % _FLATNESS_EVERY == 0:
                        flatness = face_flatness(picture, face.points)
                    faces += 1
                rows.append(pose, hands, face, flatness)
    except InputError as e:
        raise annotate(e, stage="detect", frame=len(rows)) from e.__cause__
    if not len(rows):
        raise InputError("there are no frames to detect a person in; expected at least one picture")
    return repair_swaps(rows.landmarks(pictures[0].shape[:2]), rows.leftness())


class _Graph:
    """Pose frame by frame, then hands and face where the poses of a window say.

    What depends on the poses alone is given to its net for the whole window: small nets cost more calls than sums.
    """

    def __init__(self, run: NetRunner, person: Person, fps: float) -> None:
        self.pose = PoseTracker(run, person, fps)
        self._hands = HandTracker(run)
        self._face = FaceTracker(run)

    def parts(
        self, pictures: Sequence[np.ndarray], poses: Sequence[Pose | None]
    ) -> list[tuple[Pose | None, list[Hand | None], Face | None]]:
        """Return pose, hands and face of the next pictures, whose poses are known."""
        hands = self._hands.window(pictures, poses)
        return list(zip(poses, hands, self._face.window(pictures, poses), strict=True))


class _Rows:
    """The results of frame after frame; masks go to a temporary file that has no name and ends with the process."""

    def __init__(self) -> None:
        self._rows: list[tuple[np.ndarray, ...]] = []
        self._leftness: list[np.ndarray] = []
        self._masks = tempfile.TemporaryFile()  # noqa: SIM115 - the memory map keeps it

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, pose: Pose | None, hands: list[Hand | None], face: Face | None, flatness: float) -> None:
        points, score, world = np.zeros((POSE_POINTS, 3)), np.zeros(POSE_POINTS), np.zeros((POSE_POINTS, 3))
        mask, region = np.zeros((MASK_SIZE, MASK_SIZE), np.uint8), np.zeros(5)
        if pose is not None:
            points, score, world, mask, region = pose.points, pose.visibility, pose.world, pose.mask, pose.region
        hand, hand_world = np.zeros((2, HAND_POINTS, 3)), np.zeros((2, HAND_POINTS, 3))
        hand_score, leftness = np.zeros(2), np.full(2, 0.5)
        for side in SIDES:
            seen = hands[side]
            if seen is not None:
                hand[side], hand_world[side] = seen.points, seen.world
                hand_score[side], leftness[side] = seen.presence, seen.leftness
        mesh, face_score, iris = np.zeros((FACE_POINTS, 3)), np.zeros(()), np.zeros((2, IRIS_POINTS, 2))
        if face is not None:
            mesh, face_score, iris = face.points, np.asarray(face.score), face.iris
        row = (
            points, score, world, hand, hand_score, hand_world, mesh, face_score, iris, region, np.asarray(flatness),
        )  # fmt: skip
        self._rows.append(tuple(a.astype(np.float32) for a in row))
        self._leftness.append(leftness)
        self._masks.write(mask.tobytes())

    def leftness(self) -> np.ndarray:
        """Return [T, 2]: the probability that what was found for each side is a left hand."""
        return np.stack(self._leftness)

    def landmarks(self, size: tuple[int, ...]) -> Landmarks:
        pose, score, world, hand, hand_score, hand_world, mesh, face_score, iris, region, flatness = (
            np.stack(column) for column in zip(*self._rows, strict=True)
        )
        self._masks.flush()
        masks = np.memmap(self._masks, np.uint8, "r", shape=(len(self), MASK_SIZE, MASK_SIZE))
        return Landmarks(
            pose=pose, pose_score=score, pose_world=world, hands=hand, hand_score=hand_score, hands_world=hand_world,
            face=mesh, face_score=face_score, iris=iris, person_mask=masks, mask_region=region,
            size=(int(size[0]), int(size[1])), face_flatness=flatness,
        )  # fmt: skip


def _batches(frames: Iterable[np.ndarray], batch: int) -> Iterator[list[np.ndarray]]:
    """Yield lists of at most `batch` checked pictures."""
    frames = iter(frames)
    shape: tuple[int, ...] | None = None
    number = 0
    while pictures := list(islice(frames, batch)):
        for picture in pictures:
            shape = picture.shape if shape is None else shape
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.shape != shape:
                raise InputError(
                    f"frame {number} is {picture.dtype} {list(picture.shape)}; expected uint8 [H, W, 3] RGB of the size"
                    f" of the first frame, {list(shape)}. Resize or convert the frames."
                )
            number += 1
        yield pictures
