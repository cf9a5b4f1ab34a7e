"""What an executor is asked to do: views of one clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from guava_aug.views import View


@dataclass(frozen=True, slots=True)
class Clip:
    """Who moves how in front of what: names of tracked videos, one per role. Usually all three are one video."""

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

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(replace(self, views=())), "views": [view.to_json() for view in self.views]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VideoJob:
        """Return the job that `to_json` was made from (also after a trip through JSON text)."""
        views = tuple(View.from_json(view) for view in values["views"])
        return cls(**{**values, "views": views, "clip": Clip(**values["clip"])})
