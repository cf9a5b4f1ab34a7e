"""The work list: which views are asked for, which exist, and whether they are as this run would make them."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from guava_aug.batch.config import DEFAULT_FPS, RunConfig
from guava_aug.batch.config_diff import ConfigMismatchError, Difference, compare
from guava_aug.batch.fingerprint import RenderSettings, input_digest, input_signature, is_consistent
from guava_aug.batch.jobs import Clip, VideoJob
from guava_aug.batch.journal.history import DONE, ViewHistory, no_collection
from guava_aug.batch.journal.run_log import RunLog
from guava_aug.batch.keep_cameras import DifficultyLists, lists_of_root, record_lists
from guava_aug.errors import GuavaAugError, OutputError
from guava_aug.output.mp4_probe import probe_frame_count
from guava_aug.output.sinks import MP4, find_sinks
from guava_aug.output.tree import relative_paths
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.text import in_short, pluralize
from guava_aug.runtime.version import __version__
from guava_aug.views import View, plan_views
from guava_aug.views.difficulty import check_difficulties

if TYPE_CHECKING:
    from guava_aug.output.metadata import Tag
    from guava_aug.tracked import Timing

log = logging.getLogger(__name__)

LONGEST_NAME = 190  # bytes; file systems allow 255, and the MP4's temporary name is 62 longer than the video's
FAILED_RUNS = 3  # after so many runs in which a view failed, for whatever reason, it is left alone
ViewKeys = Collection[tuple[str, str]]  # (video, view)
_OF_MADE = (
    "sampler", "trajectory", "seed", "yaw", "pitch", "zoom", "made_with", "bytes", "frames", "digest",
)  # fmt: skip
_TOLD = (  # of a view that was made
    "sampler", "params", "trajectory", "seed", "yaw", "pitch", "zoom", "made_with", "bytes", "frames", "digest",
)  # fmt: skip


class ExistingView(NamedTuple):
    """A view whose file is there and whole."""

    bytes: int  # length of the MP4
    frames: int | None
    fps: float | None  # None: made by an earlier version or by the original; also for `input`
    input: str | None  # digest of the tracked data it was made from
    tag: Tag | None = None  # what the file says of itself, if the journals do not know the view
    known: bool = False  # to the journals
    digest: str | None = None  # of the MP4 when it was made; None: not noted


@dataclass(frozen=True, slots=True)
class PlannedVideo:
    """One video of the list, with the views asked for and what is there of them."""

    name: str
    views: Sequence[View]
    done: Mapping[str, ExistingView]  # the views whose file is there and whole, by label
    refused: str | None = None  # why nothing of the video can be made
    named: bool = True  # False: its name cannot be a folder
    signature: str | None = None  # of its tracked data; None: some files are missing
    circumstances: str = ""  # a digest of what else decides whether its views can be made
    not_retried: Mapping[str, str] = field(default_factory=dict)  # label -> why it failed; trying again is of no use

    @property
    def todo(self) -> list[View]:
        """Return the views to make."""
        if len(self.done) + len(self.not_retried) == len(self.views):
            return []
        return [view for view in self.views if view.label not in self.done and view.label not in self.not_retried]

    @property
    def job(self) -> VideoJob:
        """Return what an executor is to do."""
        todo = self.todo
        attempts = {view.label: self.attempt(view) for view in todo}
        return VideoJob(self.name, tuple(todo), Clip.of(self.name), attempts, self.refused, self.named)

    def attempt(self, view: View) -> str:
        """Return a digest of all that decides whether a view can be made: when it is the same, so is the result."""
        return hashlib.sha256(f"{self.circumstances} {view!r}".encode()).hexdigest()[:16]


class _AsPlanned(Sequence[View]):
    """The views of a video of which nothing is to be made, planned again when they are asked for: they take memory."""

    __slots__ = ("_labels", "_plan")

    def __init__(self, plan: Callable[[], list[View]], labels: Collection[str]) -> None:
        self._plan, self._labels = plan, labels  # of what is planned only these, which come in its order

    def __len__(self) -> int:
        return len(self._labels)

    @overload
    def __getitem__(self, index: int) -> View: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[View]: ...
    def __getitem__(self, index: int | slice) -> View | Sequence[View]:
        return [view for view in self._plan() if view.label in self._labels][index]


def unique_names(names: Iterable[str]) -> list[str]:
    """The names in their order, each once, without the trailing slash a shell's completion leaves."""
    given = [name.rstrip("/") or name for name in names]
    once = list(dict.fromkeys(given))
    if len(once) < len(given):
        twice = [name for name, count in Counter(given).items() if count > 1]
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        log.warning("named more than once, done once: %s%s", ", ".join(twice[:5]), more)
    return once


def warn_of_look_alikes(names: Iterable[str]) -> None:
    """Logs names that differ only by case or Unicode normalisation: some file systems cannot tell them apart."""
    from guava_aug.tracked.layout import look_alikes  # noqa: PLC0415 - slow to load, and not always needed

    if groups := look_alikes(names):
        more = f" and {pluralize(len(groups) - 5, 'more group')}" if len(groups) > 5 else ""
        log.warning(
            "names that differ only by case or Unicode form; on macOS and Windows their outputs are one file: %s%s",
            "; ".join(" and ".join(group[:5]) for group in groups[:5]), more,
        )  # fmt: skip


def refused_name(name: str) -> str | None:
    """Why `name` cannot be a folder below the tracked root, or None when it can."""
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        return f"{name!r} is not a video name; expected the name of one folder below --tracked_root"
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        if (encoding := sys.getfilesystemencoding()) != "utf-8":  # of the locale, as with LC_ALL=C
            return f"{name!r}: names are read as {encoding} here; set PYTHONUTF8=1, or a locale such as LC_ALL=C.UTF-8"
        return f"{name!r} is not valid Unicode; rename the folder"
    if len(encoded) > LONGEST_NAME:
        return f"{name[:40]!r}... is too long a name ({len(encoded)} bytes, at most {LONGEST_NAME}); rename the folder"
    return None


def make_work_list(  # noqa: D417 - the types say it
    config: RunConfig,
    names: Iterable[str],
    run_log: RunLog,
    look: RenderSettings,
    timings: Mapping[str, Timing] | None = None,
    *,
    only: ViewKeys | None = None,
    again: bool = False,
    dry_run: bool = False,
) -> list[PlannedVideo]:
    """One job per video. Of the files of the output tree only sizes are looked at, and the headers of unknown ones.

    Args:
        run_log: what is known of earlier runs.
        look: what of this run decides the pixels.
        timings: the time map, by video.
        only: of all views only these.
        again: also try what was left alone.
        dry_run: write nothing of what is found.

    Raises:
        UsageError: bad difficulties, or a view that exists was made with another camera or configuration than this
            run would give it.
    """
    planner = Planner(config, run_log, look, timings or {}, again)
    jobs = []
    with no_collection():
        for name in names:
            job = planner.job(name, only)
            if job.views or only is None:
                jobs.append(job)
    jobs = planner.check_changed_inputs(jobs)
    if planner.differences:
        raise ConfigMismatchError(planner.differences)
    if planner.lists is not None and not dry_run:
        record_lists(config.output_root, planner.lists)
    if not dry_run:
        run_log.same_inputs(planner.same_inputs)
    if planner.unsigned:
        log.warning(
            "%s made by an earlier version or by the original, which did not write with what: counted as done; "
            "--overwrite makes them again",
            pluralize(planner.unsigned, "view"),
        )
    return _verified(config, jobs) if config.verify else jobs


class Planner:
    """Makes jobs; collects what has to be told of all of them together."""

    def __init__(
        self, config: RunConfig, run_log: RunLog, look: RenderSettings, timings: Mapping[str, Timing], again: bool
    ) -> None:
        self.config, self.log, self.look, self.timings, self.again = config, run_log, look, timings, again
        self.differences: list[Difference] = []
        self.unsigned = 0  # views of whose making nothing is known
        self.same_inputs: dict[str, tuple[str, str, float | None]] = {}  # read, and found as they were
        self.lists: DifficultyLists | None = None
        if config.keep_cameras:
            check_difficulties(config.difficulties)
            self.lists = lists_of_root(config.output_root, config.difficulties, config.base_seed, run_log.seeds())
        self._root = os.fspath(config.output_root) or "."
        self._compared: tuple[Any, Any] = None, None  # with what views were made and are to be; they do not differ
        self._output = config.output
        self._other_sinks = find_sinks(name for name in config.all_sinks if name != MP4)  # the journals know of the MP4
        self._to_read: dict[str, str] = {}  # videos whose files have changed their dates -> their digest before
        self._of_all = look.made_with(0.0, "")  # what all videos are made with
        del self._of_all["fps"], self._of_all["input"]
        more = [__version__]
        if config.precision != "auto":  # no part of the look, but half precision may be what a view fails of
            more.append(config.precision)
        for option, value in look.changed:
            more += option.replace("_", " "), value
        if config.accept_tracking:  # what was refused is tried
            more.append("accept_tracking")
        self._about = f"({look!r}, {config.fps!r}, ", ", ".join(map(repr, more))  # that all videos have in common

    def job(self, name: str, only: ViewKeys | None) -> PlannedVideo:
        """What is there of one video, and what is to be made."""
        config = self.config
        refused = refused_name(name)
        speakable = name.encode("utf-8", "replace").decode()
        plan = functools.partial(
            plan_views, speakable, config.difficulties, config.base_seed, config.views_per_difficulty
        )
        views: Sequence[View] = plan()
        if self.lists is not None:
            views = [self.lists.keep(speakable, view, self.log.seed_of(speakable, view.label)) for view in views]
        if only is not None:
            views = [view for view in views if (speakable, view.label) in only]
        if refused:
            return PlannedVideo(speakable, tuple(views), {}, refused, named=False)
        signature = input_signature(config.tracked_root, name)
        about = f"{self._about[0]}{signature!r}, {self.timings.get(name)!r}, {self._about[1]})"
        circumstances = hashlib.sha256(about.encode()).hexdigest()
        job = PlannedVideo(speakable, views, {}, signature=signature, circumstances=circumstances)
        if config.overwrite:
            return job
        made_with = self._expected(name, signature)
        done, not_retried = {}, {}
        known = self.log.history.views.get(name, {})
        for view in views:
            found = self._look_at(name, view, known.get(view.label), made_with)
            if found is not None:
                done[view.label] = found
            elif not self.again and (reason := self._not_retried(job, view)):
                not_retried[view.label] = reason
        made_of = next((found.input for found in done.values() if found.input), None)
        if made_of is None:
            self._to_read.pop(name, None)
        elif signature is not None and self.log.history.input_of(name) is None:  # the journals are lost
            self._to_read[name] = made_of
        refused = self._tracked_again(name, done, made_with.get("input"))
        planned = _AsPlanned(plan, done) if len(done) == len(views) and self.lists is None and not refused else views
        return PlannedVideo(
            speakable, planned, {} if refused else done, refused,
            signature=signature, circumstances=circumstances, not_retried=not_retried,
        )  # fmt: skip

    def check_changed_inputs(self, jobs: list[PlannedVideo]) -> list[PlannedVideo]:
        """The jobs again, after those videos were read whose files have other dates than when their views were made."""
        if not self._to_read:
            return jobs
        log.info(
            "reading %s again: views are there, and files have other dates than then",
            pluralize(len(self._to_read), "video"),
        )
        with ThreadPoolExecutor(min(8, usable_cpus())) as pool:
            digests = dict(zip(self._to_read, pool.map(self._read, self._to_read), strict=True))
        checked = []
        for job in jobs:
            found = digests.get(job.name)
            if found is not None and job.refused is None:
                reason = self._tracked_again(job.name, job.done, found[0])
                if reason is not None:
                    job = replace(job, done={}, refused=reason)
                else:
                    self.same_inputs[job.name] = (job.signature or "", *found)
                    self._compare_rates(job, found[1])
            checked.append(job)
        return checked

    def _compare_rates(self, job: PlannedVideo, fps: float | None) -> None:
        """Notes views with another frame rate than this run would give them; fps: what the data say."""
        timing = self.timings.get(job.name)
        now = float(self.config.fps or (timing.fps if timing else None) or fps or DEFAULT_FPS)
        for view in job.views:
            then = job.done[view.label].fps if view.label in job.done else None
            if (
                then is not None
                and then != now
                and not any((d.video, d.label) == (job.name, view.label) for d in self.differences)
            ):
                self.differences.append(Difference(job.name, view.label, "fps", then, now))

    def _read(self, name: str) -> tuple[str, float | None] | None:
        """Digest and frame rate of a video's data; None when they cannot be read: then there is nothing to compare."""
        from guava_aug.tracked import TrackedVideo  # noqa: PLC0415 - slow to load, and not always needed

        try:
            video = TrackedVideo.open(self.config.tracked_root, name)
            return input_digest(video), None if video.fps is None else float(video.fps)
        except Exception as error:
            said = error if isinstance(error, GuavaAugError) else in_short(error)
            log.warning("%s: its views are there, but its tracked data cannot be read now (%s)", name, said)
            return None

    def _expected(self, name: str, signature: str | None) -> dict[str, Any]:
        """What this run would make a video's views with, as far as it is known without reading the video."""
        expected = dict(self._of_all)
        known = self.log.history.input_of(name)
        timing = self.timings.get(name)
        fps = self.config.fps or (timing.fps if timing else None)
        if known is not None and known.signature == signature:
            expected["input"] = known.digest
            fps = fps or known.fps or DEFAULT_FPS
        elif known is not None and signature is not None:
            self._to_read[name] = known.digest
        if fps is not None:
            expected["fps"] = float(fps)
        return expected

    def _look_at(
        self, name: str, view: View, state: ViewHistory | None, made_with: Mapping[str, Any]
    ) -> ExistingView | None:
        """The view if its file is there, whole and to be kept; else it is to be made. state: what is known of it."""
        path = f"{self._root}/{relative_paths(view.label, name)[0]}"  # no Path: there may be a hundred thousand
        if state is not None and not self._other_sinks and (found := self._unchanged(path, view, state, made_with)):
            return found
        told, distrusted = self._told(name, view, state)
        whole = self._whole(path, name, view, told)
        if whole is None:
            if told is not None:  # a view that was made once keeps its camera
                self._differ(name, view, told, {})
            return None
        size, frames = whole
        if told is not None and told.get("bytes") == size:
            self._differ(name, view, told, made_with)
            self.unsigned += "made_with" not in told
            then = told.get("made_with") or {}
            return ExistingView(size, frames, then.get("fps"), then.get("input"), known=True, digest=told.get("digest"))
        from guava_aug.output.metadata import tag_of_file  # with PyAV  # noqa: PLC0415 - slow to load, and not always needed

        try:
            tag = tag_of_file(Path(path))
            if tag is not None and not is_consistent(tag):
                raise OutputError(f"{path}: what it says of its camera is damaged")
        except OutputError as error:
            log.warning("%s; it is made again", error)
            return None
        camera = told if told is not None else tag.camera if tag is not None else {}
        said = {**camera, "made_with": (tag.made_with if tag is not None else None) or {}}
        if distrusted and (tag is None or compare(name, view, said, made_with)):
            return None  # an --overwrite run was to make it again
        if not camera:
            log.warning("%s is in no journal and does not say its camera; it counts as done", path)
        self._differ(name, view, said, made_with)
        if tag is None or tag.made_with is None:
            self.unsigned += 1
            return ExistingView(size, frames, None, None, tag)
        return ExistingView(size, frames, tag.made_with.get("fps"), tag.made_with.get("input"), tag)

    def _unchanged(
        self, path: str, view: View, state: ViewHistory, made_with: Mapping[str, Any]
    ) -> ExistingView | None:
        """What `_look_at` finds of a view that is there and as this run would make it, quickly; None: look closely."""
        made = state.made
        if made is None or made is not state.told or state.withdrawn is not None or not view.is_original:
            return None
        sampler, trajectory, seed, yaw, pitch, zoom, then, size, frames, digest = made.pick(_OF_MADE)
        if (seed, yaw, pitch, zoom) != view.values or sampler or (trajectory or "fixed") != view.sampler:
            return None
        if then is not self._compared[0] or made_with is not self._compared[1]:
            wanted = {key: value for key, value in made_with.items() if key != "input"}
            if then is None or compare("", view, {"made_with": then}, wanted):
                return None
            self._compared = then, made_with
        try:
            if os.stat(path).st_size != size:
                return None
        except OSError:
            return None
        return ExistingView(size, frames, then.get("fps"), then.get("input"), known=True, digest=digest)

    def _told(self, name: str, view: View, state: ViewHistory | None) -> tuple[Mapping[str, Any] | None, bool]:
        """What the journals, or else a log, tell of the view that was made last; and whether not to trust it."""
        if state is not None and state.told is not None:
            if state.is_distrusted or state.made is None:
                return None, state.is_distrusted
            told = zip(_TOLD, state.made.pick(_TOLD), strict=True)
            return {key: value for key, value in told if value is not None}, False
        entry = self.log.get(name, view.label)
        if entry is None or entry.get("status") not in DONE:
            return None, entry is not None or (state is not None and state.is_distrusted)
        return entry, state is not None and state.is_distrusted

    def _whole(self, path: str, name: str, view: View, told: Mapping[str, Any] | None) -> tuple[int, int | None] | None:
        """Length and frames of the MP4 if everything asked for is there and whole; a damaged one is told in the log."""
        frames = (told or {}).get("frames")
        try:
            size = os.stat(path).st_size
            if told is None or told.get("bytes") != size:
                found = probe_frame_count(Path(path))
                if found != (frames or found):
                    raise ValueError(f"it has {pluralize(found, 'frame')}, the log says {frames}")
                frames = found
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is damaged (%s); it is made again", path, error)
            return None
        if self._other_sinks and not all(
            sink.is_complete(self._output, name, view.label, frames) for sink in self._other_sinks
        ):
            return None
        return size, frames

    def _differ(self, name: str, view: View, told: Mapping[str, Any], made_with: Mapping[str, Any]) -> None:
        """Notes in what a view differs from what this run would make; another input is another matter."""
        wanted = {key: value for key, value in made_with.items() if key != "input"}
        self.differences += compare(name, view, told, wanted)

    def _tracked_again(self, name: str, done: Mapping[str, ExistingView], now: str | None) -> str | None:
        """Why a video is refused whose views were made from other data than are there `now` (None: unknown)."""
        old = [label for label, found in done.items() if now and found.input and found.input != now]
        if not old:
            return None
        return (
            f"{name} was tracked again since its views were made ({', '.join(sorted(old)[:5])}), or --tracked_root is "
            "another one: what exists is kept and nothing is added to it. To make all of its views again: --overwrite "
            f"--video_list {name}; or use another --output_root"
        )

    def _not_retried(self, job: PlannedVideo, view: View) -> str | None:
        """Why a view failed that is of no use to try again; None: it is tried."""
        state = self.log.history.get(job.name, view.label)
        if state is None or state.failed is None or state.ended is None or state.ended[1] != "failed":
            return None
        told = state.failed.fields
        if told.get("attempt") != job.attempt(view) or not (told.get("lasting") or state.failed_runs >= FAILED_RUNS):
            return None
        return str(told.get("error"))


def _verified(config: RunConfig, jobs: list[PlannedVideo]) -> list[PlannedVideo]:
    """The jobs without those files that do not decode as they should; they are made again."""
    from guava_aug.output.verify import verify_view  # with PyAV  # noqa: PLC0415 - slow to load, and not always needed

    views = [(job.name, label, found) for job in jobs for label, found in job.done.items()]
    log.info("--verify: reading %s", pluralize(len(views), "view"))

    def is_good(view: tuple[str, str, ExistingView]) -> bool:
        name, label, found = view
        try:
            verify_view(
                config.output_root, label, name, frames=found.frames, fps=found.fps, digest=found.digest,
                has_sidecar=found.input is not None, has_pngs="png" in config.all_sinks,
            )  # fmt: skip
            return True
        except OutputError as error:
            log.warning("%s; this run makes it again", error)
            return False

    with ThreadPoolExecutor(usable_cpus()) as pool:  # reading and decoding let other threads run
        good = {(name, label) for (name, label, _), fine in zip(views, pool.map(is_good, views), strict=True) if fine}
    log.info("--verify: %d of %d are good", len(good), len(views))
    return [
        replace(job, done={label: found for label, found in job.done.items() if (job.name, label) in good})
        for job in jobs
    ]
