"""What of the videos is tracked already, and what is to be done: by the tracked folders and the journals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from guava_aug.avatar.config import model_location
from guava_aug.batch.fingerprint import cached_weights_digest
from guava_aug.batch.jobs import TrackJob, TrackPart
from guava_aug.batch.journal.history import History
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.batch.tracking.inputs import source_signature
from guava_aug.batch.tracking.load import body_source
from guava_aug.batch.tracking.validate import calibration_of
from guava_aug.errors import InputError
from guava_aug.runtime.files import file_sha256, is_there
from guava_aug.tracked.layout import INFO, SKIPPED, check_name
from guava_aug.tracked.report import REPORT, clip_names, first_clip_names, read_report

TRACKER_VERSION = 1  # counts up whenever the same video gives another result
PHOTOMETRIC_VERSION = 2  # likewise, of the fit to the pictures
LABEL = TrackPart().label
PhotometricWay = Literal["gpu", "cpu"]  # whose settings a fit to the pictures has (`photometric.default_config`)
_DECIDES = ("person", "on_cut", "fov", "audio", "body", "overlay")  # the result, of all options


@dataclass(frozen=True)
class PlannedTracking:
    """One video of the work list."""

    job: TrackJob
    signature: str  # of the source; "" when it cannot be read
    clips: tuple[str, ...] = ()  # folders that are there, when it is done
    frames: int = 0  # of them
    not_retried: str | None = None  # why it failed before, when it is left alone

    @property
    def name(self) -> str:
        """Return the name of the video."""
        return self.job.name

    @property
    def todo(self) -> bool:
        """Return whether it is to be tracked."""
        return not self.clips and self.not_retried is None


def track_fingerprint(config: TrackConfig, *, photometric: PhotometricWay | None) -> str:
    """Return a digest of what decides how a video is tracked.

    Args:
        config: of the run.
        photometric: how clips are fitted to their pictures, what --photometric auto comes to; None: they are not.
            Then it is absent in the digest, as it was before there was the flag.

    Raises:
        InputError: the --calibration file cannot be read.
        AssetError: there is no model to fit with.
    """
    values: dict[str, Any] = {name: getattr(config, name) for name in _DECIDES}
    values["version"] = TRACKER_VERSION
    if photometric:
        weights = cached_weights_digest(model_location(body_source(config)), config.tracked_root)
        values["photometric"] = [PHOTOMETRIC_VERSION, photometric, weights]
    if config.calibration is not None:
        path, camera = calibration_of(config.calibration)
        try:
            values["calibration"] = [file_sha256(path), camera]
        except OSError as error:
            raise InputError(f"--calibration {path}: {error.strerror or error}.") from error
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def plan_tracking(
    config: TrackConfig, sources: Mapping[str, Path], history: History, *, again: bool = False
) -> list[PlannedTracking]:
    """Return the work list in the order of the sources. Nothing is written but what the model's digest was.

    Args:
        config: of the run.
        sources: the videos by name.
        history: what the journals of the tracked root say.
        again: also try what failed for good before.
    """
    accepted = accepted_fingerprints(config)
    return [_plan(config, name, path, history, accepted, again) for name, path in sources.items()]


def accepted_fingerprints(config: TrackConfig) -> tuple[str, ...]:
    """Return the digests of clips that need not be tracked again; with --photometric auto fitted to pictures or not.

    Clips that were fitted on a CPU, with smaller pictures, are not fitted again on a GPU, and the other way round.
    """
    fitted: tuple[PhotometricWay | None, ...] = ("gpu", "cpu")
    ways = {"auto": (None, *fitted), "on": fitted, "off": (None,)}[config.photometric]
    return tuple(track_fingerprint(config, photometric=way) for way in ways)


def _plan(
    config: TrackConfig, name: str, path: Path, history: History, accepted: tuple[str, ...], again: bool
) -> PlannedTracking:
    source = str(path.absolute())
    try:
        check_name(name)
        signature = source_signature(path)
    except InputError as error:
        return PlannedTracking(TrackJob(name, source, refused=str(error)), "")
    attempt = hashlib.sha256(f"{accepted[0]}\0{signature}".encode()).hexdigest()[:32]
    job = TrackJob(name, source, attempts={LABEL: attempt})
    if config.overwrite:
        return PlannedTracking(job, signature)
    try:
        clips, frames = _existing(config.tracked_root, name, accepted, signature)
    except InputError as error:
        return PlannedTracking(TrackJob(name, source, refused=str(error)), signature)
    if clips:
        return PlannedTracking(job, signature, clips, frames)
    before = history.get(name, LABEL)
    failed = None if before is None or before.failed is None or before.status != "failed" else before.failed.fields
    if failed and not again and failed.get("lasting") and failed.get("attempt") == attempt:
        return PlannedTracking(job, signature, not_retried=str(failed.get("error") or "it failed before"))
    return PlannedTracking(job, signature)


def _existing(root: Path, name: str, accepted: tuple[str, ...], signature: str) -> tuple[tuple[str, ...], int]:
    """Return the clips of a video that are there, and their frames; none when it has to be tracked.

    Raises:
        InputError: there is something of this name that must not be replaced.
    """
    first = next((one for one in first_clip_names(name) if is_there(root / one)), None)
    if first is None:
        return (), 0
    folder = root / first
    if not is_there(folder / INFO):
        if is_there(folder / SKIPPED) or not any(folder.iterdir()):
            return (), 0  # what a refusal left; it is written again
        raise InputError(f"{folder} is there, but no tracked video. Remove it, or choose another --tracked_root.")
    report = read_report(folder)
    if report is None:
        raise InputError(
            f"{folder} was tracked by another program (it has no {REPORT}). Leave the video out, give --overwrite to "
            "replace it, or choose another --tracked_root."
        )
    what = None
    if report.source_signature != signature:
        what = f"another video ({report.source_path}), or this one has changed"
    elif report.fingerprint not in accepted:
        what = "this video with other flags, or by another version"
    if what is not None:
        raise InputError(
            f"{folder} was tracked from {what}. Give --overwrite to track it again, or choose another --tracked_root."
        )
    clips = tuple(clip_names(name, report.num_clips))
    reports = [read_report(root / clip) if is_there(root / clip / INFO) else None for clip in clips]
    frames = [found.num_frames for found in reports if found is not None]
    return (clips, sum(frames)) if len(frames) == len(clips) else ((), 0)
