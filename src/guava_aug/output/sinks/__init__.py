"""The files of a view: one module per kind of file, found by its place in this folder.

`Sink` is the protocol. The name of a module is what is typed after `--sinks`. A module is imported when its sink is
used, so that names can be checked without torch or an encoder.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from guava_aug.errors import UsageError
from guava_aug.runtime.frame_rate import Rate

if TYPE_CHECKING:  # for annotations only: torch need not be there
    import numpy as np

    from guava_aug.output.frames import PendingFrames

MP4 = "mp4"  # of every view
PRESETS = (  # of x264
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
Need = Literal["video", "rgb8", "alpha", "inverse_depth", "joints", "cameras"]


@dataclass(frozen=True)
class OutputSettings:
    """Location and format of the files of all views."""

    root: Path  # of the output tree
    overwrite: bool = False  # remove an existing file of a view before it is made again
    sinks: tuple[str, ...] = ("mp4",)  # names of sinks; see `output.sinks`
    crf: int = 10  # x264 quality, 0 (lossless) to 51
    preset: str = "veryfast"  # of x264


@dataclass(frozen=True)
class ViewTarget:
    """The view whose files a sink writes."""

    settings: OutputSettings
    video: str  # name of the tracked video
    label: str  # of the view
    size: int  # pixels, of both sides
    fps: Rate  # frames per second
    num_frames: int
    comment: str = ""  # for the metadata of formats that support it
    sidecar: Mapping[str, Any] = field(default_factory=dict)  # content of the file beside the MP4
    times: Sequence[Fraction] | None = None  # of every frame, seconds; None: at a constant `fps`
    sound: Path | None = None  # an M4A file that begins with the first frame; None: no sound


@dataclass(frozen=True)
class FrameBatch:
    """T frames of one view on their way to its sinks; only the fields that a sink needs are there.

    The original truncates in its videos and rounds in its PNGs, hence two kinds of bytes.
    """

    video: np.ndarray | PendingFrames  # [T, H, W, 3] uint8 RGB, truncated; or I420 planes on their way from a GPU
    rgb8: np.ndarray | None = None  # [T, H, W, 3] uint8 RGB, rounded
    alpha: np.ndarray | None = None  # [T, 1, H, W] float32, 0..1
    inverse_depth: np.ndarray | None = None  # [T, 1, H, W] float32, 1 / m
    joints: np.ndarray | None = None  # [T, J, 3] float32, world, metres
    cameras: tuple[np.ndarray, np.ndarray] | None = None  # K [3, 3], viewmats [T, 4, 4]: world to camera, OpenCV

    def __len__(self) -> int:
        """Return the number of frames T."""
        return len(self.video)


class Sink(Protocol):
    """Writes one kind of file of one view. A sink's module defines a class and names it `SINK`.

    The calls, in this order: the constructor, `write` for each batch in the order of the frames, `flush`, `close`; or
    `abort` at any time after the constructor. `flush` and `close` come from a thread of their own, never two calls at
    the same time. A constructor that raises must leave nothing open.
    """

    help: ClassVar[str]  # one line
    needs: ClassVar[frozenset[Need]]  # the fields of a batch that it reads, beside `video`

    def __init__(self, target: ViewTarget) -> None:
        """Begin the files under temporary names. Raises OutputError.

        Where `target.settings.overwrite` is set, files of an earlier run must not outlive a failure: remove them.
        """

    def write(self, batch: FrameBatch) -> None:
        """Write the next frames.

        Raises:
            OutputError: Writing failed, now or for earlier frames.
        """

    def flush(self) -> None:
        """Wait until all frames are taken in. Raises OutputError; a view that fails here gets no MP4."""

    def close(self) -> None:
        """Complete the files: when it returns, they are on the disk under their names. Raises OutputError."""

    def abort(self) -> None:
        """Remove unfinished files. Any number of times, also after an exception and after `close`."""

    @classmethod
    def is_complete(cls, settings: OutputSettings, video: str, label: str, num_frames: int | None) -> bool:
        """Return whether the files of a view are there and whole; cheap, as it is called for every view before a run.

        Args:
            settings: where the files are, and which.
            video: name of the tracked video.
            label: of the view.
            num_frames: of the view; None when it is not known.
        """


def sink_names() -> list[str]:
    """Return the names of all sinks, in alphabetical order."""
    names = (found.name for found in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def check_sinks(names: Iterable[str]) -> list[str]:
    """Return names of sinks, each once, the MP4 last: when it has its name, all other files are there.

    Raises:
        UsageError: There is no such sink.
    """
    known, once = sink_names(), list(dict.fromkeys(names))
    for name in once:
        if name not in known:
            raise UsageError(f"--sinks: {name!r} is not known; expected {', '.join(known)}")
    return sorted(once, key=lambda name: name == MP4)


def find_sinks(names: Iterable[str]) -> list[type[Sink]]:
    """Return the sinks with these names, the MP4 last.

    Raises:
        UsageError: there is no such sink.
    """
    return [importlib.import_module(f"{__name__}.{name}").SINK for name in check_sinks(names)]


def needs_of(names: Iterable[str]) -> frozenset[Need]:
    """Return what these sinks need from the renderer."""
    return frozenset(need for sink in find_sinks(names) for need in sink.needs)
