"""The configuration of `guava-aug track`: one frozen record, as `RunConfig` is for views."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from guava_aug.batch.config import EngineName, RunConfig, check_part_id, check_worker_flags
from guava_aug.batch.options import option, option_of, options_of
from guava_aug.batch.sharding import Shard
from guava_aug.runtime.shutdown import GRACE

DEFAULT_TRACKED_ROOT = Path("tracked")


def _as_in_run(name: str, **other: Any) -> dict[str, Any]:
    """Return the metadata of an option of `RunConfig`, which means the same here; `other`: what is said differently."""
    return {"option": dataclasses.replace(option_of(RunConfig, name), **other)}


@dataclass(frozen=True)
class TrackConfig:
    """Everything that decides how videos are tracked. Paths are relative to the caller's working directory."""

    videos: tuple[str, ...] = field(metadata=option(
        "Videos (any that FFmpeg reads), folders of pictures, and folders of videos.", "common", metavar="VIDEO",
        one_run=True,
    ))  # fmt: skip
    tracked_root: Path = field(default=DEFAULT_TRACKED_ROOT, metadata=option(
        "Folder of the results, a folder per clip, as EHM-Tracker writes them. The same command again tracks only what "
        "is missing.", "common", metavar="PATH",
    ))  # fmt: skip
    person: str | None = field(default=None, metadata=option(
        "Whom to follow where several are in the picture: a number, from the left and from 0, or X,Y, a point in "
        "pixels of the first frame. Left out: the largest, most central.", "input", metavar="N|X,Y",
    ))  # fmt: skip
    on_cut: Literal["split", "refuse"] = field(default="split", metadata=option(
        "What becomes of a video with shot cuts: a clip per shot, NAME_01 and so on, or a refusal.", "input",
        metavar="split|refuse",
    ))  # fmt: skip
    fov: str | None = field(default=None, metadata=option(
        "Field of view of the camera, degrees: 60 across the width, 40v over the height, 78d from corner to corner; "
        "auto: estimated from face and hands. Left out: as the video's own data say, else auto.",
        "input", metavar="DEGREES|auto",
    ))  # fmt: skip
    calibration: Path | None = field(default=None, metadata=option(
        "JSON, YAML or TOML file with the camera's matrix (K, or fx, fy, cx, cy), the size of its pictures in pixels, "
        "and its distortion; FILE:CAMERA where it has several cameras.",
        "input", metavar="FILE",
    ))  # fmt: skip
    audio: Literal["copy", "none"] = field(default="copy", metadata=option(
        "Keep the sound with the clip; the MP4s of its views get it.", "output", metavar="copy|none",
    ))  # fmt: skip
    overlay: bool = field(default=False, metadata=option(
        "Also write overlay.mp4: the fitted body over the video, frame by frame.", "output",
    ))  # fmt: skip
    overwrite: bool = field(default=False, metadata=_as_in_run(
        "overwrite", help="Track again what is tracked already, also with other flags.",
    ))  # fmt: skip
    limit: int | None = field(default=None, metadata=_as_in_run(
        "limit", help="Only the first N of the videos that are to be tracked; the others wait for another run.",
    ))  # fmt: skip
    shard: str | None = field(default=None, metadata=_as_in_run("shard"))
    part_id: str | None = field(
        default=None, metadata=_as_in_run("part_id", help="Name of this part of a cluster job.")
    )
    retries: int = field(default=0, metadata=_as_in_run(
        "retries", help="How often a video that failed is tried again at once, unless it would fail again.",
    ))  # fmt: skip

    photometric: Literal["auto", "on", "off"] = field(default="off", metadata=option(
        "After the landmarks, fit pose, shape and camera to the pictures, through an avatar of the person (of "
        "--model_path). What does not get better stays. auto: where a CUDA GPU is used, and off on a CPU, which takes "
        "half a minute a frame for it; what is tracked already counts as done either way.",
        "model", metavar="off|on|auto",
    ))  # fmt: skip

    model_path: Path | None = field(default=None, metadata=_as_in_run("model_path"))
    guava_root: Path | None = field(default=None, metadata=_as_in_run("guava_root"))
    body: Literal["auto", "embedded", "assets"] = field(default="auto", metadata=option(
        "Body that is fitted: the embedded one, or the licensed SMPL-X and FLAME of the model's assets; auto: the "
        "model's own.", "model", metavar="auto|embedded|assets",
    ))  # fmt: skip
    device: str = field(default="0", metadata=_as_in_run("device"))
    require_gpu: bool = field(default=False, metadata=_as_in_run("require_gpu"))

    engine: EngineName = field(default="local", metadata=_as_in_run("engine"))
    gpus: tuple[str, ...] | None = field(default=None, metadata=_as_in_run("gpus"))
    workers: int | None = field(default=None, metadata=_as_in_run("workers"))
    timeout: float | None = field(default=None, metadata=_as_in_run("timeout"))
    ray_address: str | None = field(default=None, metadata=_as_in_run("ray_address"))
    cpus_per_worker: int | None = field(default=None, metadata=_as_in_run("cpus_per_worker"))
    grace: float = field(default=GRACE, metadata=_as_in_run(
        "grace", help="How long videos in work may take after SIGUSR1, SIGTERM (at most 20 s; the exit code is 75) or "
        "Ctrl-C (130).",
    ))  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse what makes no sense whatever the files are.

        Raises:
            UsageError: names the flag, what was given, and what would do.
        """
        for declared in options_of(type(self)):
            declared.check(getattr(self, declared.name))
        check_worker_flags(self)
        if self.shard is not None and self.part_id is None:  # parts of one job must not share a record
            object.__setattr__(self, "part_id", str(Shard.parse(self.shard).index))
        check_part_id(self.part_id)

    @property
    def has_workers(self) -> bool:
        """Return whether worker processes are asked for."""
        return self.engine == "ray" or any(x is not None for x in (self.gpus, self.workers, self.timeout))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {declared.name: declared.plain(getattr(self, declared.name)) for declared in options_of(type(self))}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrackConfig:
        """Return the record that `to_json` was made from (also after a trip through JSON text).

        Raises:
            TypeError: a value is not of its field's type, or there is no such field.
            UsageError: as when it is made.
        """
        known = {declared.name: declared for declared in options_of(cls)}
        values = json.loads(json.dumps(values))
        if unknown := set(values) - set(known):
            raise TypeError(f"TrackConfig: there is no {', '.join(sorted(unknown))}")
        return cls(**{name: known[name].from_plain(value) for name, value in values.items()})
