"""What a run gives back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from guava_aug.output.tree import video_path
from guava_aug.runtime.timing import StageTime

Status = Literal["success", "skipped", "failed"]  # the original's words


@dataclass(frozen=True, slots=True)
class ViewResult:
    """One view of one video."""

    video: str
    difficulty: str
    label: str  # folder below the output root: "easy", "easy_001"
    status: Status
    output_root: Path | None  # None: the name cannot be a folder
    seed: int | None  # of a view as the original draws them; so are the next three. None: of another sampler
    yaw: float | None  # radians, nominal
    pitch: float | None  # radians, nominal: positive lowers the camera
    zoom: float | None  # factor on the distance
    seconds: float | None = None  # render time; None when nothing was rendered
    error: str | None = None  # the reason, when the status is "failed"
    sampler: str = "fixed"  # of its cameras
    params: Mapping[str, Any] = field(default_factory=dict)  # of the sampler

    @property
    def path(self) -> Path | None:
        """The MP4, complete unless the status is "failed"; None: the name cannot be a folder."""
        return None if self.output_root is None else video_path(self.output_root, self.label, self.video)


@dataclass(frozen=True)
class RunResult:
    """A whole run; `views` is in the order of the work list."""

    views: Sequence[ViewResult]
    params_log: Path  # augmentation_params.json, or that of the part
    record: Path  # versions, device, configuration, timing of this run
    stages: Sequence[StageTime] = field(default_factory=tuple)
    seconds: float = 0.0  # wall time of the whole run

    @property
    def failed(self) -> list[ViewResult]:
        """The views that have no file, with the reason in `error`."""
        return [view for view in self.views if view.status == "failed"]

    @property
    def ok(self) -> bool:
        """Whether every view has its file."""
        return not self.failed

    def count(self) -> Counter[str]:
        """How many views ended as success, skipped, failed."""
        return Counter(view.status for view in self.views)
