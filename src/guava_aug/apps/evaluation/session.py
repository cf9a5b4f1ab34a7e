"""A session of caliscope: calibrated cameras, their videos, and which frames belong to the same moment.

`camera_array.toml` has a table `[cameras.N]` per camera: size [width, height], matrix [3, 3], distortions (OpenCV's),
rotation ([3, 3], or a rotation vector) and translation (metres) from world to camera, rotation_count (quarter turns
clockwise that make its pictures upright), ignore. The videos are `cam_N.mp4` (`port_N.mp4` in older versions) of a
folder of `recordings`, or of `calibration/extrinsic`. Beside them a CSV file has a row per frame: `cam_id` (or `port`),
`frame_time` in seconds, and mostly `sync_index`, which rows of one moment share. (Repository mprib/caliscope,
BSD-2-Clause: `cameras/camera_array.py`, `recording/synchronized_timestamps.py`.)
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.files import read_text
from guava_aug.tracked.lens import Calibration, Undistortion, calibration_of_table, parsed_toml
from guava_aug.tracked.reading import Source, open_source

CAMERAS = "camera_array.toml"
_VIDEO = re.compile(r"(?:cam|port)_(.+)\.(?:mp4|mkv|mov|avi)")
_ORTHONORMAL = 1e-3  # largest entry of R R^T - I
_LATE = 0.5  # of the time between two frames: pictures farther apart are not of one moment
_QUARTER = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))  # camera axes after a quarter turn clockwise

_MOST_MOMENTS = 120  # unless others are named: all cameras' pictures of them are in memory


@dataclass(frozen=True)
class SessionCamera:
    """One calibrated camera."""

    name: str
    calibration: Calibration  # of the pictures as they are stored
    viewmat: Tensor  # [4, 4] float64, world -> camera of the stored pictures, metres
    turns: int  # quarter turns clockwise that make its pictures upright, 0 to 3


class UprightVideo:
    """A camera's video without distortion, upright.

    Attributes:
        K: [3, 3] of its pictures.
        viewmat: [4, 4] float64, world -> camera of its pictures, metres.
        size: (height, width) of its pictures.
        valid: [H, W] uint8, 255 where the camera shows something.
    """

    def __init__(self, camera: SessionCamera, path: Path) -> None:
        self.source: Source = open_source(path)
        calibration = camera.calibration.at(self.source.size, f"camera {camera.name}")
        self._undistortion = Undistortion(calibration)
        self._turns = camera.turns
        self.K, self.viewmat, self.size = calibration.K.double(), camera.viewmat, calibration.size
        for _ in range(camera.turns):
            (fx, _, cx), (_, fy, cy), _ = self.K.tolist()
            self.K = torch.tensor([[fy, 0, self.size[0] - 1 - cy], [0, fx, cx], [0, 0, 1]], dtype=torch.float64)
            quarter = torch.eye(4, dtype=torch.float64)
            quarter[:3, :3] = torch.tensor(_QUARTER)
            self.viewmat, self.size = quarter @ self.viewmat, self.size[::-1]
        self.valid = self._upright(self._undistortion.valid)

    def pictures(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Give the pictures [H, W, 3] uint8 of ascending frame numbers, one at a time.

        Raises:
            InputError: One of them cannot be decoded.
        """
        wanted = set(numbers)
        for frame in self.source.frames(numbers[0], numbers[-1] + 1):
            if frame.number in wanted:
                wanted.discard(frame.number)
                yield self._upright(self._undistortion.apply(frame.rgb))
        if wanted:
            raise InputError(f"{self.source.path}: frame {min(wanted)} cannot be decoded; choose others")

    def _upright(self, picture: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.rot90(picture, -self._turns))


def read_cameras(path: Path) -> dict[str, SessionCamera]:
    """Return the calibrated cameras of a `camera_array.toml` by name, without those to be ignored or without place.

    Raises:
        InputError: It cannot be read, or something in it is impossible; names the camera.
    """
    text = read_text(path, str(path))
    try:
        content = parsed_toml(text, str(path))
    except ValueError as error:
        raise InputError(f"{path}: cannot be parsed ({' '.join(str(error).split())[:200]})") from error
    tables = content.get("cameras")
    if not isinstance(tables, Mapping):
        raise InputError(f"{path}: expected a table [cameras.N] per camera, found none")
    found = {}
    for name, table in tables.items():
        where = f"{path}, camera {name}"
        if not isinstance(table, Mapping):
            raise InputError(f"{where}: expected a table")
        if table.get("ignore") or any(table.get(key) in (None, []) for key in ("rotation", "translation", "matrix")):
            continue
        turns = table.get("rotation_count", 0)
        if not isinstance(turns, int):
            raise InputError(f"{where}: expected rotation_count to be a number of quarter turns, found {turns!r}")
        found[str(name)] = SessionCamera(
            str(name), calibration_of_table(table, where), _viewmat(table, where), turns % 4
        )
    if len(found) < 2:
        raise InputError(f"{path}: expected two or more calibrated cameras, found {', '.join(found) or 'none'}")
    return found


def find_videos(session: Path, names: Sequence[str], recording: str | None = None) -> dict[str, Path]:
    """Return the videos of cameras by name.

    Args:
        session: the folder of `camera_array.toml`.
        names: of the cameras.
        recording: folder within the session; None: the only one that has videos of two cameras or more.

    Raises:
        InputError: there are none.
        UsageError: several folders have them.
    """
    if recording is not None:
        places = [session / recording]
    else:
        places = [*sorted((session / "recordings").glob("*")), session / "calibration" / "extrinsic", session]
    found = {place: videos for place in places if len(videos := _videos_in(place, names)) > 1}
    if not found:
        there = ", ".join(str(p.relative_to(session)) for p in places)
        raise InputError(f"{session}: no videos cam_N.mp4 of two calibrated cameras or more; looked into {there}")
    if len(found) > 1:
        there = ", ".join(str(p.relative_to(session)) for p in found)
        raise UsageError(f"{session} has several recordings ({there}); say which one, with --recording")
    return next(iter(found.values()))


def moments(videos: Mapping[str, Path], lengths: Mapping[str, int], source: str) -> tuple[list[dict[str, int]], float]:
    """Return the frame numbers of all cameras at each moment, and moments per second (0: not known).

    Moments that a camera has missed are left out. Without a CSV file frames of one number are of one moment.

    Args:
        videos: by camera; their folder may have the CSV file.
        lengths: frames of each.
        source: the camera whose frames are the moments where the file does not name them.

    Raises:
        InputError: the file is not what it should be, or no moment was seen by all cameras.
    """
    rows = _timestamps(next(iter(videos.values())).parent, list(videos))
    if rows is None:
        return [dict.fromkeys(videos, i) for i in range(min(lengths.values()))], 0.0
    numbers = {name: _numbers(rows[name], lengths[name]) for name in videos}
    if any(row.sync is None for stamps in rows.values() for row in stamps):
        by_camera = _nearest(rows, numbers, source)
    else:
        by_camera = {
            name: {int(row.sync or 0): (n, row.time) for row, n in zip(rows[name], numbers[name], strict=True)}
            for name in videos
        }
    shared = sorted(set.intersection(*(set(found) for found in by_camera.values())))
    kept = [{name: by_camera[name][key][0] for name in videos} for key in shared]
    kept = [m for m in kept if all(0 <= n < lengths[name] for name, n in m.items())]
    if not kept:
        raise InputError(f"{next(iter(videos.values())).parent}: its timestamps name no moment that all cameras saw")
    times = [by_camera[source][key][1] for key in shared]
    apart = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return kept, 1 / apart if apart > 0 else 0.0


def choose_moments(count: int, text: str | None) -> range:
    """Return the moments of START:STOP[:STEP], from 0; None: all `count` of them, of many every n-th.

    Raises:
        UsageError: it is something else, or names none.
    """
    if text is None:
        return range(0, count, max(1, -(-count // _MOST_MOMENTS)))
    found = re.fullmatch(r"(\d*):(\d*)(?::(\d+))?", text.strip())
    if found is None:
        raise UsageError(f"--session_frames: expected START:STOP or START:STOP:STEP such as 0:60:3, found {text!r}")
    start, stop, step = (int(part) if part else None for part in found.groups())
    if step == 0:
        raise UsageError("--session_frames: the step must be 1 or more")
    chosen = range(count)[slice(start, stop, step)]
    if len(chosen) == 0:
        raise UsageError(f"--session_frames {text}: names none of the session's {count} moments (0 to {count - 1})")
    return chosen


def rate(moments_per_second: float, step: int, source: Source) -> Fraction:
    """Return the frames per second of every `step`-th moment; without times as the video says."""
    per_second = Fraction(moments_per_second or source.fps).limit_denominator(1000) / step
    return max(per_second, Fraction(1, 100))


@dataclass(frozen=True)
class _Stamp:
    """When a frame was taken."""

    sync: int | None
    time: float
    number: int | None  # as the file says; may count from before the beginning of the video


def _timestamps(folder: Path, names: Sequence[str]) -> dict[str, list[_Stamp]] | None:
    for path in sorted(folder.glob("*.csv")):
        lines = list(csv.DictReader(read_text(path, str(path)).splitlines()))
        head = set(lines[0]) if lines else set()
        camera = next((key for key in ("cam_id", "port") if key in head), None)
        if camera is None or "frame_time" not in head:
            continue
        found: dict[str, list[_Stamp]] = {name: [] for name in names}
        try:
            for line in lines:
                if line[camera].strip() in found:
                    whole = lambda key, line=line: int(line[key]) if line.get(key) else None
                    found[line[camera].strip()].append(
                        _Stamp(whole("sync_index"), float(line["frame_time"]), whole("frame_index"))
                    )
        except (ValueError, AttributeError, TypeError) as error:
            raise InputError(f"{path}: expected numbers in every row ({error})") from error
        if all(found.values()):
            return {name: sorted(stamps, key=lambda s: s.time) for name, stamps in found.items()}
    return None


def _numbers(stamps: Sequence[_Stamp], length: int) -> list[int]:
    """Return the number in the video of each stamp: as the file says, if the video has these; else in their order."""
    said = [s.number for s in stamps]
    if all(n is not None and n < length for n in said) and len(stamps) < length:
        return [int(n or 0) for n in said]
    return list(range(len(stamps)))


def _nearest(
    rows: Mapping[str, Sequence[_Stamp]], numbers: Mapping[str, Sequence[int]], source: str
) -> dict[str, dict[int, tuple[int, float]]]:
    """Return by camera and frame of the source the nearest frame in time, if it is near enough."""
    at = np.array([s.time for s in rows[source]])
    late = _LATE * float(np.median(np.diff(at))) if len(at) > 1 else np.inf
    found: dict[str, dict[int, tuple[int, float]]] = {}
    for name, stamps in rows.items():
        times = np.array([s.time for s in stamps])
        best = np.abs(times[None] - at[:, None]).argmin(1)
        found[name] = {
            k: (numbers[name][b], float(times[b])) for k, b in enumerate(best.tolist()) if abs(times[b] - at[k]) <= late
        }
    return found


def _videos_in(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    matches = [(_VIDEO.fullmatch(p.name), p) for p in sorted(folder.iterdir())]
    there = {found[1]: path for found, path in matches if found}
    return {name: there[name] for name in names if name in there}


def _viewmat(table: Mapping[str, Any], where: str) -> Tensor:
    try:
        rotation: np.ndarray = np.asarray(table["rotation"], np.float64)
        translation = np.asarray(table["translation"], np.float64).reshape(3)
        if rotation.size == 3:
            rotation = cv2.Rodrigues(rotation.reshape(3))[0]
        if rotation.shape != (3, 3) or not np.isfinite(rotation).all() or not np.isfinite(translation).all():
            raise ValueError("expected rotation [3, 3] or [3] and translation [3]")
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > _ORTHONORMAL or np.linalg.det(rotation) < 0:
            raise ValueError("its rotation is no rotation")
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: its place cannot be used ({error})") from error
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3], viewmat[:3, 3] = torch.from_numpy(rotation), torch.from_numpy(translation)
    return viewmat
