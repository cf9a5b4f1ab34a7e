"""The protocol of everything that makes views, and the events it yields."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

from guava_aug.batch.jobs import Job
from guava_aug.batch.results import ViewRecord
from guava_aug.errors import AssetError, DeviceError, DiskFullError, UsageError

FATAL = (UsageError, AssetError, DeviceError, DiskFullError)  # would fail with every job


@dataclass(frozen=True, slots=True)
class ViewDone:
    """A part of a job ended: a view, or the tracking of a video."""

    record: ViewRecord


@dataclass(frozen=True, slots=True)
class FramesDone:
    """Frames of one part are done."""

    done: int
    total: int  # frames of the part
    video: str = ""  # filled in by `dispatch`


@dataclass(frozen=True, slots=True)
class StageTimed:
    """A stage of `runtime.timing` ended."""

    name: str
    seconds: float
    count: int


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line for the log of the run."""

    level: int  # of `logging`
    text: str
    source: str = ""  # the worker it is from


@dataclass(frozen=True, slots=True)
class JobBegun:
    """The parts of a job are about to be made; noted before their files are."""

    job: Job
    attempt: int  # 0, then 1 and so on for the further tries of what failed


@dataclass(frozen=True, slots=True)
class JobDone:
    """A job has ended."""

    job: Job
    seconds: float
    records: tuple[ViewRecord, ...] = ()  # the last of every part


JobEvent = ViewDone | JobBegun | JobDone  # of jobs and their parts
Event = ViewDone | FramesDone | StageTimed | LogLine | JobBegun | JobDone
Events = Generator[Event, None, None]


class Executor(Protocol):
    """Makes the parts of jobs: views of a clip, or the tracking of a video."""

    capacity: int  # jobs at a time
    in_main_thread: bool  # `execute` is to be iterated by the thread that called `start`; else by one thread per job

    def check(self) -> None:
        """Refuse flags that cannot work with any job; cheap, before anything is planned."""

    def start(self, num_jobs: int) -> None:
        """Do what is expensive and needed once: load the model, start workers. Not called when there is nothing to do.

        Args:
            num_jobs: how many jobs there will be; more workers than that are of no use.
        """

    def execute(self, job: Any) -> Events:  # a `Job` of the kind that it is for
        """Make the parts of a job and yield the events as they occur.

        What is wrong with one part ends in its `ViewDone`; what is wrong with all parts of the job raises, and those
        without a `ViewDone` have failed. Errors of the kinds in `FATAL` mean that every other job would fail too. When
        the generator is closed, unfinished files are removed before `close` returns.
        """

    def request_stop(self) -> None:
        """Let what is in flight end and begin nothing more; then `execute` raises `ShutdownRequested`.

        From any thread, any number of times.
        """

    def stop(self) -> None:
        """End now, and free what `start` has taken; unfinished files are removed.

        Generators of `execute` that other threads iterate end with `ShutdownRequested`. Any number of times.
        """

    def describe(self) -> dict[str, Any]:
        """Return what was used, for the run's record."""
