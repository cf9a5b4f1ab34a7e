"""Writing of tracked videos in the tracker's own format, for the demo and for tests."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import cv2
import lmdb
import numpy as np
from torch import Tensor

from guava_aug.body.params import Identity, Motion
from guava_aug.errors import OutputError, UsageError
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.frame_rate import Rate
from guava_aug.runtime.safe_pickle import load_pickle
from guava_aug.runtime.text import pluralize
from guava_aug.tracked import layout
from guava_aug.tracked.boxes import BODY_CROP, PART_CROP, PARTS
from guava_aug.tracked.images import IMAGE, KNOWN, MASK
from guava_aug.tracked.parameters import CAMERA, camera_rt
from guava_aug.views.cameras import check_K

Layout = Literal["flat", "nested", "merged"]
_Dict = dict[str, Any]
_Frames = Iterable[tuple[np.ndarray, np.ndarray]]

_JPEG_QUALITY = 95  # the tracker's, with 4:2:0 chroma
_FIRST_MAP = 2**24  # bytes; doubled whenever it is full
_BATCH = 32  # frames a transaction
_INVTANFOV = 24.0  # the tracker's z = 24 / scale of its weak-perspective camera


@dataclass(frozen=True)
class _Extra:
    """What a video has beside its frames and parameters."""

    known: np.ndarray | None
    sound: Path | None
    quality: int


def write_tracked(
    root: str | Path,
    name: str,
    identity: Identity,
    motion: Motion,
    viewmats: Any,  # Tensor [T, 4, 4] world to camera, OpenCV axes
    frames: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    layout_kind: Layout = "flat",
    frame_keys: Sequence[str] | None = None,
    fps: Rate | None = None,
    source_frames: Sequence[int] | None = None,
    part_crops: Mapping[str, np.ndarray] | None = None,
    quality: int = _JPEG_QUALITY,
    K: Tensor | None = None,
    known: np.ndarray | None = None,
    times: layout.FrameTimes | None = None,
    sound: Path | None = None,
) -> Path:
    """Write the tracked video `name` below `root` and return its directory.

    A flat or nested directory appears complete or not at all. In a merged set `videos_info.json` is written last.

    Args:
        root: Tracked root.
        name: Name of the video.
        identity: Constant parameters.
        motion: T frames of pose.
        viewmats: [T, 4, 4] world to camera.
        frames: T pairs of RGB uint8 [S, S, 3] and mask uint8 [S, S] (255 = person); may be a generator, from which one
            pair at a time is taken.
        layout_kind: "flat" `<root>/<name>/`, "nested" `<root>/<name>/<name>/`, or "merged": added to the set `<root>/`.
        frame_keys: Default `frame_000000`, ...
        fps: Written to `videos_info.json`; the tracker does not write it.
        source_frames: As `fps`.
        part_crops: "head", "left_hand", "right_hand" -> [T, 3, 3] affine maps from the part's 512 crop to the body
            image in 1024 units; default the whole image.
        quality: Quality of the JPEGs.
        K: [3, 3] true lens, pixels of the stored images; None: the format's own, nearly orthographic. Other readers of
            the format do not know it.
        known: [S, S] uint8, 255 where the original video shows something, 0 outside of its picture; None: everywhere.
        times: When every frame is shown in the original video; None: at a constant `fps`.
        sound: An M4A file that begins with the first frame; it is copied.

    Raises:
        OutputError: The video exists already, or cannot be written, for example because the disk is full.
        UsageError: Inconsistent arguments.
    """
    root, name = Path(root), layout.check_name(name)
    count = len(motion)
    keys = [f"frame_{i:06d}" for i in range(count)] if frame_keys is None else list(frame_keys)
    if count == 0 or len(keys) != count or len(set(keys)) != count or tuple(viewmats.shape) != (count, 4, 4):
        raise UsageError(
            f"video {name!r}: expected at least one frame and as many (different) frame keys and cameras as poses, "
            f"found {count} poses, {len(keys)} keys, cameras {tuple(viewmats.shape)}."
        )
    entry: dict[str, Any] = {"frames_num": count, "frames_keys": keys}
    if fps is not None:
        rate = layout.check_fps(fps, f"video {name!r}")
        entry["fps"] = str(rate) if isinstance(rate, Fraction) else rate
    if source_frames is not None:
        numbers = [int(f) for f in source_frames]
        entry["source_frames"] = list(layout.check_source_frames(numbers, count, f"video {name!r}") or ())
    if K is not None:
        entry["K"] = check_K(K).tolist()
    if times is not None:
        entry["times"] = {"time_base": str(times.time_base), "ticks": [int(t) for t in times.ticks]}
        layout.check_times(entry["times"], count, f"video {name!r}")
    extra = _Extra(known, sound, quality)
    tracking = dict(zip(keys, _frame_dicts(motion, viewmats, part_crops or {}), strict=True))
    shared = _identity_dict(identity)
    target = {"flat": root / name, "nested": root / name / name, "merged": root}[layout_kind]
    try:
        if layout_kind == "merged":
            _add_to_set(target, name, entry, tracking, shared, frames, extra)
        else:
            _write_alone(target, name, entry, tracking, shared, frames, extra)
    except (OSError, lmdb.Error, cv2.error) as e:
        raise OutputError(f"video {name!r} could not be written to {target}: {e}") from e
    return target


def rewrite_parameters(folder: Path, identity: Identity, motion: Motion, viewmats: Tensor) -> None:
    """Give a flat tracked folder other parameters of the same frames; its pictures stay.

    Args:
        folder: of `write_tracked`, with its default crops of the parts.
        identity: Constant parameters.
        motion: T frames of pose.
        viewmats: [T, 4, 4] world to camera.

    Raises:
        OutputError: it cannot be written.
        UsageError: there are not as many poses and cameras as frames.
    """
    keys = layout.find_video(folder.parent, folder.name).frame_keys
    if len(motion) != len(keys) or tuple(viewmats.shape) != (len(keys), 4, 4):
        raise UsageError(
            f"{folder} has {pluralize(len(keys), 'frame')}, found {len(motion)} poses and cameras "
            f"{tuple(viewmats.shape)}."
        )
    try:
        _dump_pickle(folder / layout.TRACKING, dict(zip(keys, _frame_dicts(motion, viewmats, {}), strict=True)))
        _dump_pickle(folder / layout.IDENTITY, _identity_dict(identity))
    except OSError as e:
        raise OutputError(f"the parameters of {folder} could not be written: {e}") from e


def _write_alone(
    target: Path, name: str, entry: _Dict, tracking: _Dict, shared: _Dict, frames: _Frames, extra: _Extra
) -> None:
    if target.exists():
        raise OutputError(f"{target} exists already. Remove it, or choose another name.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name[:40]}.", dir=target.parent) as scratch:
        made = Path(scratch) / "video"
        made.mkdir()
        _write_images(made, "", entry["frames_keys"], frames, extra)
        if extra.sound is not None:
            shutil.copyfile(extra.sound, made / layout.SOUND)
        _dump_pickle(made / layout.TRACKING, tracking)
        _dump_pickle(made / layout.IDENTITY, shared)
        _dump_json(made / layout.INFO, {name: entry})
        made.rename(target)


def _add_to_set(
    root: Path, name: str, entry: _Dict, tracking: _Dict, shared: _Dict, frames: _Frames, extra: _Extra
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    old = (root / layout.INFO).exists()
    info = layout.read_info(root) if old else {}
    if name in info:
        raise OutputError(f"{root / layout.INFO} has a video {name!r} already. Choose another name.")
    all_tracking = load_pickle(root / layout.TRACKING) if old else {}
    all_shared = load_pickle(root / layout.IDENTITY) if old else {}
    if any(video not in all_shared for video in info):
        raise OutputError(f"{root} holds a single video, not a merged set. Choose another root.")
    _write_images(root, f"{name}/", entry["frames_keys"], frames, extra)
    if extra.sound is not None:
        target = layout.sound_of(root, name, True)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(extra.sound, target)
    _dump_pickle(root / layout.TRACKING, {**all_tracking, name: tracking})
    _dump_pickle(root / layout.IDENTITY, {**all_shared, name: shared})
    _dump_json(root / layout.INFO, {**info, name: entry})


def _write_images(directory: Path, prefix: str, keys: Sequence[str], frames: _Frames, extra: _Extra) -> None:
    """Put the JPEGs into `img_lmdb`; its map grows with them, so that the file is as large as its content."""
    folder = directory / layout.IMAGES.parent
    folder.mkdir(exist_ok=True)
    present = folder / layout.IMAGES.name
    first = max(_FIRST_MAP, 2 * present.stat().st_size if present.exists() else 0)
    env = lmdb.open(str(folder), map_size=first)
    try:
        batch: list[tuple[bytes, bytes]] = []
        size: tuple[int, ...] | None = None
        source = iter(frames)
        for i, key in enumerate(keys):
            pair = next(source, None)
            if pair is None:
                raise UsageError(f"expected {pluralize(len(keys), 'frame')}, found {i}.")
            rgb, mask = pair
            size = size or mask.shape
            if rgb.dtype != np.uint8 or mask.dtype != np.uint8 or mask.shape != size or size[0] != size[-1]:
                raise UsageError(f"frame {key!r}: expected square uint8 images of one size, found {mask.shape}.")
            if rgb.shape != (*size, 3) or mask.ndim != 2:
                raise UsageError(f"frame {key!r}: expected image [S, S, 3] and mask [S, S], found {rgb.shape}, {size}.")
            batch.append((f"{prefix}{key}/{IMAGE}".encode(), _jpeg(rgb[..., ::-1], extra.quality)))
            batch.append((f"{prefix}{key}/{MASK}".encode(), _jpeg(mask, extra.quality)))
            if len(batch) >= 2 * _BATCH:
                _put(env, batch)
                batch = []
        if next(source, None) is not None:
            raise UsageError(f"expected {pluralize(len(keys), 'frame')}, found more.")
        if extra.known is not None:
            if extra.known.shape != size or extra.known.dtype != np.uint8:
                raise UsageError(f"known: expected uint8 {size}, found {extra.known.dtype} {extra.known.shape}.")
            batch.append((f"{prefix}{KNOWN}".encode(), _png(extra.known)))
        _put(env, batch)
    finally:
        env.close()
    (folder / "lock.mdb").unlink(missing_ok=True)


def _put(env: lmdb.Environment, batch: Sequence[tuple[bytes, bytes]]) -> None:
    while True:
        try:
            with env.begin(write=True) as transaction:
                for key, value in batch:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            env.set_mapsize(2 * env.info()["map_size"])


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR"):
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    good, data = cv2.imencode(".jpg", np.ascontiguousarray(image), options)
    if not good:
        raise OutputError("an image could not be encoded as JPEG.")
    return data.tobytes()


def _png(image: np.ndarray) -> bytes:
    good, data = cv2.imencode(".png", image)
    if not good:
        raise OutputError("an image could not be encoded as PNG.")
    return data.tobytes()


def _identity_dict(identity: Identity) -> dict[str, np.ndarray]:
    def row(values: Tensor) -> np.ndarray:
        return values.detach().cpu().numpy().astype(np.float32)[None]

    def padded(coefficients: Tensor, stored: int) -> np.ndarray:
        """Return as many coefficients as the tracker stores; only zeros are cut off."""
        used = int(coefficients.count_nonzero() and coefficients.nonzero().max() + 1)
        values = row(coefficients[: max(stored, used)])
        return np.pad(values, ((0, 0), (0, max(0, stored - values.shape[1]))))

    return {
        "smplx_shape": padded(identity.betas, 200),
        "flame_shape": padded(identity.flame_betas, 300),
        "left_mano_shape": np.zeros((1, 10), np.float32),
        "right_mano_shape": np.zeros((1, 10), np.float32),
        "head_scale": row(identity.head_scale),
        "hand_scale": row(identity.hand_scale),
        "joints_offset": row(identity.joints_offset),
    }


def _frame_dicts(motion: Motion, viewmats: Any, part_crops: Mapping[str, np.ndarray]) -> Iterable[dict[str, Any]]:
    """Return one dictionary per frame with what renderers read; other results of the tracker are left out."""
    rows = {f: getattr(motion, f).detach().cpu().numpy().astype(np.float32) for f in motion.__dataclass_fields__}
    rt = camera_rt(viewmats)
    whole = np.diag([BODY_CROP / PART_CROP, BODY_CROP / PART_CROP, 1]).astype(np.float32)
    body = {"M_o2c-hd": np.eye(3, dtype=np.float32), "M_c2o-hd": np.eye(3, dtype=np.float32)}
    to_small = np.diag([224 / BODY_CROP, 224 / BODY_CROP, 1]).astype(np.float32)
    for i in range(len(motion)):
        r = {field: values[i].copy() for field, values in rows.items()}
        x, y, z = (float(v) for v in rt[i, :, 3])
        frame: dict[str, Any] = {
            "body_crop": {"M_o2c": to_small, "M_c2o": np.linalg.inv(to_small), **body},
            "smplx_coeffs": {
                "exp": r["expression"],
                "global_pose": r["global_orient"],
                "body_pose": r["body_pose"],
                "body_cam": np.array([_INVTANFOV / z if z else 0.0, -x, -y], np.float32),
                CAMERA[1]: rt[i].copy(),
                "left_hand_pose": r["left_hand_pose"],
                "right_hand_pose": r["right_hand_pose"],
            },
            "flame_coeffs": {
                "expression_params": r["flame_expression"],
                "jaw_params": r["jaw_pose"],
                "pose_params": np.zeros(3, np.float32),
                "neck_pose_params": np.zeros(3, np.float32),
                "eye_pose_params": r["eye_pose"].reshape(6),
                "eyelid_params": r["eyelids"],
                "camera_RT_params": rt[i].copy(),
                "cam": np.array([_INVTANFOV / z if z else 0.0, -x, -y], np.float32),
            },
        }
        for part in PARTS:
            to_body = np.asarray(part_crops[part][i], np.float32) if part in part_crops else whole
            frame[f"{part}_crop"] = {"M_o2c": np.linalg.inv(to_body), "M_c2o": to_body}
        yield frame


def _dump_pickle(path: Path, value: Any) -> None:
    with atomic_write(path, durable=False) as temporary, temporary.open("wb") as file:
        pickle.dump(value, file, protocol=4)


def _dump_json(path: Path, value: Any) -> None:
    with atomic_write(path, durable=False) as temporary:
        temporary.write_bytes(json.dumps(value, ensure_ascii=False, indent=4).encode())
