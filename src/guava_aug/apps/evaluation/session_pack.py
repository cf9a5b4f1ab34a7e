"""From a session of calibrated cameras to a folder of calibrated views: tracked in one camera, masks in all.

The body is tracked in the source camera alone, through its true lens. One camera cannot tell how large a person is, so
one number is taken from the others: how many metres a unit of the fit has, so that eyes, elbows and wrists of the body
are where the detection nets find them. Nothing else of the other cameras enters.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.evaluation.session import (
    CAMERAS,
    UprightVideo,
    choose_moments,
    find_videos,
    moments,
    rate,
    read_cameras,
)
from guava_aug.body import EhmModel
from guava_aug.body.joints import INDEX
from guava_aug.errors import InputError, OutputError, UsageError
from guava_aug.output.video import VideoWriter
from guava_aug.tracked import TrackedVideo
from guava_aug.tracked.detect import Landmarks, detect
from guava_aug.tracked.lens import lens_of_crop
from guava_aug.tracked.matting import coarse_masks, refine_masks
from guava_aug.tracked.reading import choose_crop
from guava_aug.tracked.tracking import Tracker, TrackOptions

log = logging.getLogger(__name__)

FIT = "tracked"  # name of the fit of the body
_VERSION = 1  # of what is written; another one is made again
_CRF = 1  # of the source camera's video without distortion: nearly lossless
_SEEN = 0.5  # score of what counts
_FACE_LIFT, _FACE_GROWTH = 0.1, 0.85  # of the extent of the face's landmarks: middle and radius of the head
# joints of the body, and points of a pose that the nets find in the same place
_PAIRS = (
    ("left_eye", 2), ("right_eye", 5), ("left_elbow", 13), ("right_elbow", 14), ("left_wrist", 15), ("right_wrist", 16),
)  # fmt: skip
_ROUNDS, _ROBUST = 20, 15.0  # of the robust fit of the scale; pixels of the pictures
_MARKER = ".guava-aug-views"  # in a folder that may be made anew
_LEAST_VIEWS = 2  # cameras with the person, the source among them


@dataclass(frozen=True)
class _Seen:
    """What a camera saw of the chosen moments."""

    video: UprightVideo
    landmarks: Landmarks  # pixels of the upright picture, 0, 0 = corner of the first


def pack_of_session(
    session: Path,
    out: Path,
    source: str,
    body: EhmModel,
    device: torch.device,
    *,
    frames: str | None = None,
    recording: str | None = None,
    size: int = 512,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Return the folder of calibrated views of a session; made now, unless that was done before.

    Args:
        session: folder with `camera_array.toml` and videos.
        out: where the folder is made.
        source: name of the camera that is tracked.
        body: that is fitted.
        device: where the nets run.
        frames: moments as START:STOP:STEP; None: all.
        recording: folder of the videos; None: the only one there is.
        size: pixels of the square views.
        check: called now and then; raises to stop.

    Raises:
        InputError: the session cannot be read, or the person not tracked; says why.
        UsageError: the source camera is not there, or the moments are not.
        OutputError: the folder cannot be written.
    """
    cameras = read_cameras(session / CAMERAS)
    paths = find_videos(session, list(cameras), recording)
    if source not in paths:
        raise UsageError(f"--source_camera {source}: the session has videos of {', '.join(paths)}")
    videos = {name: UprightVideo(cameras[name], path) for name, path in paths.items()}
    there, per_second = moments(paths, {name: len(v.source) for name, v in videos.items()}, source)
    chosen = choose_moments(len(there), frames)
    made_from = _digest([session / CAMERAS, *paths.values()], source, list(chosen), size)
    if _made_from(out / "pack.json") == made_from:
        log.info("%s: made before of the same session", out)
        return out
    numbers = {name: [there[k][name] for k in chosen] for name in videos}
    try:
        _make_empty(out)
        fps = rate(per_second, chosen.step, videos[source].source)
        log.info("%s: tracking camera %s, %d frames at %.3g a second", session.name, source, len(chosen), float(fps))
        video = _track(videos[source], numbers[source], fps, out, session.name, body, device)
        entry, landmarks = _write_source(video, videos[source], out / source, size, device, check)
        found, shown = {source: entry}, landmarks.found
        seen: dict[str, _Seen] = {}
        for name in videos:
            if name != source:
                log.info("%s: masks of camera %s", session.name, name)
                views = _write_other(videos[name], numbers[name], out / name, size, device, check)
                if views is None:
                    log.warning("%s: camera %s does not show the person and is left out", session.name, name)
                    continue
                found[name], seen[name] = views
                shown = shown & seen[name].landmarks.found
        if len(found) < _LEAST_VIEWS:
            raise InputError(f"{session}: no camera but {source} shows the person in the chosen frames; choose others")
        metres, apart = scale_of_fit(body, video, videos[source].viewmat, seen)
        log.info("%s: one unit of the fit is %.3f m; landmarks are off by %s px", session.name, metres, apart)
        _write_fit(out / "fits" / f"{FIT}.npz", video, metres)
        content = {
            "video": video.name, "source": source, "frames": len(chosen), "size": size,
            "scored": np.flatnonzero(shown).tolist(), "cameras": found, "made_from": made_from,
            "alignment": {"metres_per_unit": metres, "landmarks_px": apart}, "moments": list(chosen),
        }  # fmt: skip
        (out / "pack.json").write_text(json.dumps(content, indent=1), encoding="utf-8")  # last: it is complete
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror or error})") from error
    return out


def scale_of_fit(
    body: EhmModel, video: TrackedVideo, source_view: Tensor, seen: dict[str, _Seen]
) -> tuple[float, dict[str, float]]:
    """Return metres per unit of a fit from one camera, and how far landmarks of the others are off, median in px.

    A point X of the fit, in the axes of the source camera, is at R X + t / s in another camera, in units of the fit. A
    landmark there says two linear equations of 1 / s; all of them are solved together, robustly.

    Args:
        body: that was fitted.
        video: the source camera's.
        source_view: [4, 4] of the source camera, metres.
        seen: the other cameras, of the same moments as the video's frames.
    """
    cpu = body.to("cpu")
    with torch.inference_mode():
        joints = cpu(video.identity, video.motion).joints[:, [INDEX[name] for name, _ in _PAIRS]]
        views = video.viewmats.float()
        at = (joints @ views[:, :3, :3].transpose(1, 2) + views[:, None, :3, 3]).double()  # [T, n, 3] source camera
    a, b, sure, rays = [], [], [], []
    for camera in seen.values():
        pose, score = camera.landmarks.pose, camera.landmarks.pose_score
        ids = [k for _, k in _PAIRS]
        pixels = torch.from_numpy(pose[:, ids, :2]).double() - 0.5
        K = camera.video.K
        x = (pixels - K[:2, 2]) / torch.stack([K[0, 0], K[1, 1]])  # [T, n, 2] slopes
        move = camera.video.viewmat @ torch.linalg.inv(source_view)
        turned, t = at @ move[:3, :3].T, move[:3, 3]
        # x * (Z + u tz) = X + u tx, and the same of y: a + u b = 0 in pixels
        focal = torch.stack([K[0, 0], K[1, 1]])
        a.append(focal * (turned[..., :2] - x * turned[..., 2:]) / turned[..., 2:])
        b.append(focal * (t[:2] - x * t[2]) / turned[..., 2:])
        sure.append((torch.from_numpy(score[:, ids]) > _SEEN)[..., None].double().expand(-1, -1, 2))
        rays.append((turned, t, x, focal))
    A, B, weight = (torch.cat([v.flatten() for v in values]) for values in (a, b, sure))
    if float(weight.sum()) < 2:
        raise InputError("no landmark of the person is found in the other cameras; choose other frames")
    u = torch.tensor(1.0, dtype=torch.float64)
    w = weight
    for _ in range(_ROUNDS):
        u = -(w * A * B).sum() / (w * B * B).sum().clamp(min=1e-12)
        w = weight / (1 + ((A + u * B) / _ROBUST) ** 2)
    if not 0.1 < float(u) < 10:
        raise InputError(
            f"the tracked body and the other cameras do not fit together (one unit would be {1 / float(u):.3g} m); "
            "check the calibration, and that the frames are of the same moments"
        )
    apart = {}
    for (name, _), (turned, t, x, focal), s in zip(seen.items(), rays, sure, strict=True):
        there = turned + u * t
        off = ((there[..., :2] / there[..., 2:] - x) * focal).norm(dim=-1)[s[..., 0] > 0]
        apart[name] = round(float(off.median()), 1) if len(off) else float("nan")
    return 1 / float(u), apart


def _track(
    upright: UprightVideo, numbers: Sequence[int], fps: Any, out: Path, name: str, body: EhmModel, device: torch.device
) -> TrackedVideo:
    """Return the source camera's frames, tracked through its lens."""
    height, width = upright.size
    path = out / "source.mp4"
    with VideoWriter(path, width, height, fps, crf=_CRF) as writer:
        for picture in upright.pictures(numbers):
            writer.write(picture[None])
    lens = out / "source_lens.json"
    lens.write_text(json.dumps({"K": upright.K.tolist(), "size": [width, height]}), encoding="utf-8")
    options = TrackOptions("", "", calibration=(lens, None), keep_audio=False, overwrite=True)
    work = Tracker(body, device).track(path, out / "tracked", name, options)
    while True:
        try:
            next(work)
        except StopIteration as end:
            clips = end.value
            break
    if len(clips) != 1 or clips[0].num_frames != len(numbers):
        parts = ", ".join(f"{c.num_frames} frames" for c in clips)
        raise InputError(
            f"{upright.source.path}: expected one shot of {len(numbers)} frames, found {parts}: the frames differ too "
            "much; give --session_frames with a smaller step, or without the cut"
        )
    path.unlink()
    return TrackedVideo.open(out / "tracked", clips[0].name)


def _write_source(
    video: TrackedVideo, upright: UprightVideo, folder: Path, size: int, device: torch.device,
    check: Callable[[], None],
) -> tuple[dict[str, Any], Landmarks]:  # fmt: skip
    """Write the source camera's views as the tracker cut them out, and return its entry and what the nets found."""
    folder.mkdir()

    def pictures() -> Iterator[np.ndarray]:
        for i in range(video.num_frames):
            rgb, mask = (_resized(x, size) for x in video.read_frame(i))
            _write(folder / f"{i:06d}.png", rgb)
            _write(folder / f"mask_{i:06d}.png", mask)
            yield rgb

    landmarks = detect(pictures(), device=device, stop=check)
    known = video.known_at(size)
    _write(
        folder / "valid.png", np.full((size, size), 255, np.uint8) if known is None else known.astype(np.uint8) * 255
    )
    K = video.lens_at(size)
    assert K is not None  # its lens was given
    return _entry(K, upright.viewmat, _heads(landmarks, lambda points: points - 0.5)), landmarks


def _write_other(
    upright: UprightVideo, numbers: Sequence[int], folder: Path, size: int, device: torch.device,
    check: Callable[[], None],
) -> tuple[dict[str, Any], _Seen] | None:  # fmt: skip
    """Write views of another camera, and return its entry and what the nets found; None: nobody is there."""
    landmarks = detect(upright.pictures(numbers), device=device, stop=check)
    crop = choose_crop(landmarks) if landmarks.found.any() else None
    if crop is None:
        return None
    folder.mkdir()
    known = crop.known(size, upright.valid)
    _write(folder / "valid.png", np.full((size, size), 255, np.uint8) if known is None else known)
    pictures = lambda: (crop.take(picture, size) for picture in upright.pictures(numbers))
    for i, picture in enumerate(pictures()):
        _write(folder / f"{i:06d}.png", picture)
    coarse = coarse_masks(landmarks.person_mask, landmarks.mask_region, crop)
    for i, mask in enumerate(refine_masks(pictures, coarse, len(numbers), known)):
        check()
        _write(folder / f"mask_{i:06d}.png", mask)
    K = lens_of_crop(upright.K, crop.left, crop.top, crop.side, size)
    heads = _heads(landmarks, lambda points: crop.points(points - 0.5, size))
    return _entry(K, upright.viewmat, heads), _Seen(upright, landmarks)


def _entry(K: Tensor, viewmat: Tensor, heads: list[list[float] | None]) -> dict[str, Any]:
    return {"K": K.tolist(), "viewmat": viewmat.tolist(), "heads": heads}


def _heads(landmarks: Landmarks, to_view: Callable[[np.ndarray], np.ndarray]) -> list[list[float] | None]:
    """Return x, y, radius of the head in pixels of the view; None where no face was found."""
    heads: list[list[float] | None] = []
    for face, score in zip(landmarks.face, landmarks.face_score, strict=True):
        if score <= _SEEN:
            heads.append(None)
            continue
        points = to_view(face[:, :2].astype(np.float64))
        low, high = points.min(0), points.max(0)
        extent = float((high - low).max())
        x, y = ((low + high) / 2).tolist()
        heads.append([x, y - _FACE_LIFT * extent, _FACE_GROWTH * extent])
    return heads


def _write_fit(path: Path, video: TrackedVideo, metres: float) -> None:
    path.parent.mkdir()
    values = {
        f"{prefix}_{f.name}": getattr(of, f.name).numpy()
        for prefix, of in (("identity", video.identity), ("motion", video.motion))
        for f in fields(of)
    }
    np.savez(path, viewmats=video.viewmats.float().numpy(), metres=metres, **values)


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    way = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_CUBIC
    return cv2.resize(picture, (size, size), interpolation=way)


def _write(path: Path, picture: np.ndarray) -> None:
    pixels = picture[..., ::-1] if picture.ndim == 3 else picture
    if not cv2.imwrite(str(path), np.ascontiguousarray(pixels)):
        raise OutputError(f"{path}: cannot be written; check the folder and the free space")


def _digest(paths: Sequence[Path], source: str, chosen: Sequence[int], size: int) -> str:
    files = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
    said = [_VERSION, files, source, list(chosen), size]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


def _make_empty(out: Path) -> None:
    """Make the folder, or empty it if this program made it.

    Raises:
        UsageError: it holds something else.
    """
    if out.exists() and any(out.iterdir()):
        if not (out / _MARKER).is_file():
            raise UsageError(f"{out} holds other files; choose another --output, or move them")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).touch()


def _made_from(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["made_from"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
