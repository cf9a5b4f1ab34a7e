"""The work of an executor: jobs, whose parts each end in one record.

Views of one clip are parts of a `VideoJob`; a video that is to be tracked is the one part of a `TrackJob`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from guava_aug.views import View


@dataclass(frozen=True, slots=True)
class Clip:
    """Names of the tracked videos of an output by their roles. Usually all three are one video."""

    identity: str  # whose avatar
    motion: str  # whose poses, frame by frame
    background: str  # whose picture without the person

    @classmethod
    def of(cls, name: str) -> Clip:
        """Return a clip whose three roles are the tracked video `name`."""
        return cls(name, name, name)


@dataclass(frozen=True, slots=True)
class VideoJob:
    """Views of one clip to make. Small and picklable: it goes to worker processes as it is."""

    name: str  # of the output
    views: tuple[View, ...]
    clip: Clip
    attempts: Mapping[str, str] = field(default_factory=dict)  # label -> `ViewRecord.attempt`
    refused: str | None = None  # why nothing of it can be made
    named: bool = True  # False: its name cannot be a folder

    @property
    def parts(self) -> tuple[View, ...]:
        """Return what of it ends in a record of its own."""
        return self.views

    def with_parts(self, parts: tuple[Any, ...]) -> VideoJob:
        """Return the same job with only these parts."""
        return replace(self, views=parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(replace(self, views=())), "views": [view.to_json() for view in self.views]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VideoJob:
        """Return the job that `to_json` was made from (also after a trip through JSON text)."""
        views = tuple(View.from_json(view) for view in values["views"])
        return cls(**{**values, "views": views, "clip": Clip(**values["clip"])})


@dataclass(frozen=True, slots=True)
class TrackPart:
    """The tracking of a video, whatever the number of its clips."""

    label: str = "tracked"

    def record(self) -> dict[str, Any]:
        """Return the fields of a record that identify the part: none, as a video is tracked in one way."""
        return {}


@dataclass(frozen=True, slots=True)
class TrackJob:
    """A video to track. Small and picklable, as every job."""

    name: str  # of the tracked folder
    source: str  # the video, or a folder of pictures; absolute
    attempts: Mapping[str, str] = field(default_factory=dict)  # label -> `ViewRecord.attempt`
    refused: str | None = None  # why it cannot be tracked
    parts: tuple[TrackPart, ...] = (TrackPart(),)

    def with_parts(self, parts: tuple[Any, ...]) -> TrackJob:
        """Return the same job with only these parts."""
        return replace(self, parts=parts)


Job = VideoJob | TrackJob
Part = View | TrackPart
