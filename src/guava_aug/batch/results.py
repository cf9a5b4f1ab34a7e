"""How views ended, and the result of a run."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from operator import eq
from pathlib import Path
from typing import Any, Literal, overload

from guava_aug.output.tree import video_path
from guava_aug.runtime.plain_json import as_text
from guava_aug.runtime.timing import StageTime, stage_rows
from guava_aug.views.view import ORIGINAL_PARAMS, recorded_params, split_label

Status = Literal["success", "skipped", "failed"]  # the original's words
ViewKey = tuple[str, str]  # video, view


@dataclass(frozen=True, slots=True)
class ViewRecord:
    """How one view of one video ended, and what it was made of.

    The one record of it: an executor makes it, the journal's line of kind `view` is its JSON, and the parameter log,
    the manifest, `guava-aug status` and the result of a run are made from it. What is not known is None.
    """

    video: str
    view: str  # label: the folder below the output root, "easy" or "easy_001"
    status: Status
    sampling: Mapping[str, Any]  # sampler and parameters of the view's cameras, see `View.record`
    tracked_path: str | None = None  # where the video was read
    output_dir: str | None = None  # the folder of the view, by the original's name
    frames: int | None = None
    fps: float | None = None
    frame_rate: str | None = None  # fps exactly, "30000/1001"
    size: tuple[int, int] | None = None  # width and height, pixels
    bytes: int | None = None  # length of the MP4
    digest: str | None = None  # of the MP4, see `runtime.files.file_digest`
    camera: Mapping[str, Any] | None = None  # the camera itself, see `output.metadata.compact_facts`
    fingerprint: str | None = None
    made_with: Mapping[str, Any] | None = None  # see `fingerprint.RenderSettings.made_with`
    input: tuple[str, str, float | None] | None = None  # of the tracked video: signature, digest, fps that it says
    stages: Mapping[str, float] | None = None  # seconds; of what views share, an equal part
    seconds: float | None = None  # render time, without what all views of the video share
    error: str | None = None  # the reason, when the status is "failed"
    stage: str | None = None  # of the work, where it failed
    frame: int | None = None  # of the output, from 0, where it failed: the first of the frames in work
    permanent: bool | None = None  # the same data would fail again
    attempt: str | None = None  # a digest of all that decides whether the view can be made, when it failed
    output_root: Path | None = None  # not in the journal; None: the name cannot be a folder

    @property
    def key(self) -> ViewKey:
        """Return (video, view)."""
        return self.video, self.view

    @property
    def label(self) -> str:
        """Return the folder below the output root."""
        return self.view

    @property
    def difficulty(self) -> str:
        """Return the label without its number."""
        return split_label(self.view)[0]

    @property
    def sampler(self) -> str | None:
        """Return the sampler of the view's cameras."""
        return recorded_params(self.sampling)[0]

    @property
    def params(self) -> dict[str, Any]:
        """Return the parameters of the sampler."""
        return recorded_params(self.sampling)[1]

    @property
    def seed(self) -> int | None:
        """Return the seed of a view as the original draws them; None: of another sampler. So are the next three."""
        return self.params.get("seed")

    @property
    def yaw(self) -> float | None:
        """Return the nominal yaw, radians."""
        return self.params.get("yaw")

    @property
    def pitch(self) -> float | None:
        """Return the nominal pitch, radians: positive lowers the camera."""
        return self.params.get("pitch")

    @property
    def zoom(self) -> float | None:
        """Return the factor on the camera's distance."""
        return self.params.get("zoom")

    @property
    def path(self) -> Path | None:
        """Return the MP4, complete unless the status is "failed"; None: the name cannot be a folder."""
        return None if self.output_root is None else video_path(self.output_root, self.view, self.video)

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the journal's line, without those that are not known. Names as in docs/formats.md."""
        render_time = None if self.seconds is None or self.status == "failed" else round(self.seconds, 3)
        line: dict[str, Any] = {
            "video": self.video, "view": self.view, "status": self.status, **self.sampling,
            "tracked_path": self.tracked_path, "output_dir": self.output_dir,
            "frames": self.frames, "fps": self.fps, "size": None if self.size is None else list(self.size),
            "made_with": None if self.made_with is None else dict(self.made_with), "fingerprint": self.fingerprint,
            "input": None if self.input is None else list(self.input), "bytes": self.bytes, "digest": self.digest,
            "camera": None if self.camera is None else dict(self.camera), "frame_rate": self.frame_rate,
            "stages": None if self.stages is None else dict(self.stages), "render_time": render_time,
            "error": None if self.error is None else as_text(self.error), "stage": self.stage, "frame": self.frame,
            "lasting": self.permanent, "attempt": self.attempt,
        }  # fmt: skip
        return {name: value for name, value in line.items() if value is not None}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> ViewRecord:
        """Return the record that `to_json` was made from."""
        renamed: dict[str, Any] = {"seconds": line.get("render_time"), "permanent": line.get("lasting")}
        names = {f.name for f in fields(cls)} - {"sampling", "output_root", *renamed}
        values: dict[str, Any] = {name: line[name] for name in names if name in line}
        for name in ("size", "input"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        sampling = {key: line[key] for key in ("sampler", "params", *ORIGINAL_PARAMS, "trajectory") if key in line}
        return cls(sampling=sampling, **values, **renamed)


ViewResult = ViewRecord  # its name in what `augment` gives back


class RunViews(Sequence[ViewRecord]):
    """The records of a run in the order of its work list. Those of views that were complete are made when asked for.

    Args:
        counts: how many views each video has.
        records_of: gives the records of a video, by its number.
        others: those that are not "skipped", in order; some that are may be among them.
    """

    def __init__(
        self, counts: Sequence[int], records_of: Callable[[int], Sequence[ViewRecord]], others: Sequence[ViewRecord]
    ) -> None:
        self._ends = list(accumulate(counts))
        self._records_of, self.others = records_of, others

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> ViewRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ViewRecord]: ...
    def __getitem__(self, index: int | slice) -> ViewRecord | Sequence[ViewRecord]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        video = bisect_right(self._ends, place)
        return self._records_of(video)[place - self._ends[video]]

    def __iter__(self) -> Iterator[ViewRecord]:
        for video in range(len(self._ends)):
            yield from self._records_of(video)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def count(self, value: Any) -> int:
        """Return how often a record is among them."""
        return sum(record == value for record in self)

    def statuses(self) -> Counter[str]:
        """Return how many views ended as success, skipped, failed."""
        found: Counter[str] = Counter(record.status for record in self.others)
        found["skipped"] += len(self) - len(self.others)
        return +found


@dataclass(frozen=True)
class RunResult:
    """A whole run; `views` is in the order of the work list."""

    views: Sequence[ViewRecord]
    params_log: Path  # augmentation_params.json, or that of the part
    record: Path  # versions, device, configuration, timing of this run
    stages: Sequence[StageTime] = field(default_factory=tuple)
    seconds: float = 0.0  # wall time of the whole run

    @property
    def failed(self) -> list[ViewRecord]:
        """Return the views that have no file, with the reason in `error`."""
        views = self.views.others if isinstance(self.views, RunViews) else self.views
        return [view for view in views if view.status == "failed"]

    @property
    def ok(self) -> bool:
        """Return whether every view has its file."""
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        """Return plain values: what `guava-aug run --json` prints. The views' fields: docs/formats.md."""
        return {
            "ok": self.ok,
            "counts": dict(self.count()),
            "seconds": round(self.seconds, 3),
            "params_log": str(self.params_log),
            "record": str(self.record),
            "stages": stage_rows(self.stages),
            "views": [{**view.to_json(), "path": None if view.path is None else str(view.path)} for view in self.views],
        }

    def count(self) -> Counter[str]:
        """Return how many views ended as success, skipped, failed."""
        if isinstance(self.views, RunViews):
            return self.views.statuses()
        return Counter(view.status for view in self.views)
