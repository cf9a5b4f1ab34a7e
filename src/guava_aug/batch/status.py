"""How the work on an output root stands, from its journals: while runs are going on as well as after they died."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from guava_aug.batch.jobs import TrackPart
from guava_aug.batch.journal.history import History, ViewHistory, WorkerHistory
from guava_aug.batch.journal.journal import Damage, JournalLine
from guava_aug.output.tree import relative_paths
from guava_aug.runtime.plain_json import is_number
from guava_aug.runtime.processes import process_lives
from guava_aug.tracked.layout import INFO

WorkerState = Literal["running", "silent", "died", "stopped", "ended"]
SILENT_AFTER = 900.0  # seconds without a line after which a worker of another machine may have died
RECENT = 600.0  # seconds over which views per second are counted
LOOKED_AT = 2000  # files of views that are done
EXAMPLES = 3  # views shown of each reason
TRACKED = TrackPart().label  # in the place of a view's label, of the tracking of a video


@dataclass(frozen=True)
class Reason:
    """Failures with one reason; names and numbers in it may differ."""

    stage: str | None
    text: str  # of the first of them
    views: int
    videos: int
    examples: tuple[str, ...]  # "video / view, frame 3"
    lasting: int  # of them, views that are left alone until their data or `guava-aug retry` change that


@dataclass(frozen=True)
class WorkerStatus:
    """One process that worked, or works, on the output root."""

    name: str
    host: str
    pid: int
    part: str | None
    life: WorkerState
    why: str  # it stopped; "" unless it did
    device: str | None  # GPU's name, or device
    made: int  # views
    seconds: float  # from its first to its last line
    idle: float  # seconds since its last line
    in_flight: tuple[str, int] | None  # a video and how many of its views, while it runs


@dataclass(frozen=True)
class AvatarStatus:
    """The fitted avatar that views of a video were made with, or were not."""

    video: str
    used: bool
    before: float | None  # dB on the person in the frames kept back, without the fit
    after: float | None


@dataclass(frozen=True)
class RunStatus:
    """A whole output root."""

    root: Path
    views: int
    videos: int
    done: int
    failed: int
    left: int  # of runs that are going on or died before they made them
    missing: int  # done, as the journals say, but their files are not there
    reasons: Sequence[Reason]
    workers: Sequence[WorkerStatus]
    views_per_second: float | None  # of the running workers lately; None: none is running, or none has made a view
    eta: float | None  # seconds
    device_seconds_per_view: float | None  # by all workers: their time, times their GPUs, by the views they made
    on_gpu: bool  # whether those were GPU seconds
    damage: Damage  # what could not be read of the journals
    avatars: Sequence[AvatarStatus] = ()  # of videos whose views were made with --personalize
    of_tracking: bool = False  # the journals are of `guava-aug track`; its "views" are videos

    @property
    def unit(self) -> str:
        """Return what is counted: "view", or "video" where the journals are of tracking."""
        return "video" if self.of_tracking else "view"

    @property
    def running(self) -> int:
        """Return the number of running workers."""
        return sum(worker.life == "running" for worker in self.workers)


def run_status(history: History, now: float | None = None) -> RunStatus:
    """Return the status of a run. now: seconds since 1970; None: the clock's."""
    now = time.time() if now is None else now
    counts = Counter(view.status for _, _, view in history.items())
    missing = _missing_files(history)
    workers = [_worker(history, worker, now) for worker in history.workers.values()]
    running = [history.workers[w.name] for w in workers if w.life == "running"]
    rate = sum(_rate(worker, now) for worker in running)
    left = counts["left"]
    made = sum(len(worker.finished) for worker in history.workers.values())
    spent = sum((w.last - w.started) * int(w.used.get("workers") or 1) for w in history.workers.values() if w.finished)
    return RunStatus(
        root=history.root,
        views=sum(counts.values()),
        videos=len(history.views),
        done=counts["done"] - missing,
        failed=counts["failed"],
        left=left,
        missing=missing,
        damage=history.damage,
        reasons=_reasons(history),
        workers=sorted(workers, key=lambda w: (w.life != "running", w.idle)),
        views_per_second=rate or None,
        eta=left / rate if rate else None,
        device_seconds_per_view=spent / made if made else None,
        avatars=_avatars(history),
        of_tracking=any(TRACKED in views for views in history.views.values()),
        on_gpu=any((w.used.get("machine") or {}).get("gpu") for w in history.workers.values()),
    )


def _avatars(history: History) -> list[AvatarStatus]:
    """Return the fitted avatars that the views say they were made with, in the order of their videos."""
    found: dict[str, AvatarStatus] = {}
    for video, _, view in history.items():
        if view.made is None:
            continue
        made_with, _ = view.made.pick(("made_with", "frames"))
        if made_with and "avatar" in made_with:
            before, after = (made_with.get(key) for key in ("avatar_before", "avatar_after"))
            is_known = is_number(before) and is_number(after)
            found[video] = AvatarStatus(
                video, made_with.get("avatar_used") is not False,
                before if is_known else None, after if is_known else None,
            )  # fmt: skip
    return [found[video] for video in sorted(found)]


def _missing_files(history: History) -> int:
    """Return how many views are done, as the journals say, without their file: journals were copied, or files removed.

    All of them are looked at when journals were written in another place, or when one of `LOOKED_AT`, spread evenly, is
    missing: on a file system of a network a hundred thousand looks take a minute.
    """
    done = [
        (view.made, video, label)
        for video, label, view in history.items()
        if view.made is not None and view.status == "done"
    ]

    def is_missing(made: JournalLine, video: str, label: str) -> bool:
        worker = history.workers.get(made.worker)
        root = history.root if worker is None or worker.root is None else worker.root
        if label == TRACKED:
            folder = os.path.basename(str(made.get("output_dir") or video))
            return not os.path.exists(f"{root}/{folder}/{INFO}")
        return not os.path.exists(f"{root}/{relative_paths(label, video)[0]}")

    moved = any(history.has_moved(worker) for worker in history.workers)
    if len(done) > LOOKED_AT and not moved and not any(is_missing(*one) for one in done[:: len(done) // LOOKED_AT]):
        return 0
    return sum(is_missing(*one) for one in done)


def active_workers(history: History, views: Iterable[tuple[str, str]]) -> dict[WorkerStatus, int]:
    """Return the running workers that will render some of these (video, view), and how many."""
    now = time.time()
    planned = Counter(
        view.planned[1]
        for video, label in views
        if (view := history.get(video, label)) is not None and view.planned is not None and view.status == "left"
    )
    found = {_worker(history, worker, now): planned[name] for name, worker in history.workers.items() if planned[name]}
    return {worker: count for worker, count in found.items() if worker.life == "running"}


def _worker(history: History, worker: WorkerHistory, now: float) -> WorkerStatus:
    machine = worker.used.get("machine") or {}
    life = _state(worker, now)
    return WorkerStatus(
        name=worker.name,
        host=str(worker.header.get("host") or "?"),
        pid=int(worker.header.get("pid") or 0),
        part=worker.part,
        life=life,
        why=worker.ended or "",
        device=machine.get("gpu") or machine.get("device"),
        made=len(worker.finished),
        seconds=max(0.0, worker.last - worker.started),
        idle=max(0.0, now - worker.last),
        in_flight=_in_flight(history, worker) if life in ("running", "silent") else None,
    )


def _state(worker: WorkerHistory, now: float) -> WorkerState:
    if worker.ended is not None:
        return "stopped" if worker.ended else "ended"
    lives = process_lives(worker.header.get("host_id"), worker.header.get("pid"), since=worker.started)
    if lives is not None:
        return "running" if lives else "died"
    return "running" if now - worker.last < SILENT_AFTER else "silent"


def _in_flight(history: History, worker: WorkerHistory) -> tuple[str, int] | None:
    if worker.flight is None:
        return None
    key, video, labels = worker.flight
    views = [history.get(video, label) for label in labels]
    open_views = [view for view in views if view is None or view.ended is None or view.ended[0] < key]
    return (video, len(open_views)) if open_views else None


def _rate(worker: WorkerHistory, now: float) -> float:
    """Return the recent rate, views per second."""
    recent = [at for at in worker.finished if at > now - RECENT]
    window = min(RECENT, now - worker.started)
    return len(recent) / window if window > 0 else 0.0


def _reasons(history: History) -> list[Reason]:
    """Return the failures in groups of one reason, the most frequent first."""
    groups: dict[tuple[str | None, str], list[tuple[str, str, ViewHistory]]] = {}
    for video, label, view in sorted(history.items(), key=lambda item: item[:2]):
        if view.status == "failed" and view.failed is not None:
            fields = view.failed.fields
            reason = _without_particulars(str(fields.get("error") or "?"), video)
            groups.setdefault((fields.get("stage"), reason), []).append((video, label, view))
    found = []
    for (stage, _), members in groups.items():
        first = members[0][2].failed
        assert first is not None
        found.append(
            Reason(
                stage=stage,
                text=str(first.fields.get("error") or "?"),
                views=len(members),
                videos=len({video for video, _, _ in members}),
                examples=tuple(_examples(members)),
                lasting=sum(bool(view.failed and view.failed.fields.get("lasting")) for _, _, view in members),
            )
        )
    return sorted(found, key=lambda reason: (-reason.views, reason.text))


def _examples(members: Iterable[tuple[str, str, ViewHistory]]) -> list[str]:
    shown = []
    for video, label, view in list(members)[:EXAMPLES]:
        frame = view.failed.fields.get("frame") if view.failed else None
        shown.append(f"{video} / {label}" + (f", frame {frame}" if frame is not None else ""))
    return shown


def _without_particulars(text: str, video: str) -> str:
    """Return the reason without parts that differ between videos: names, paths, quotes, numbers."""
    text = text.replace(video, "*")
    text = re.sub(r"'[^']*'|\S*/\S*", "*", text)
    return re.sub(r"\d+", "N", text)
