"""The work list: which views of which videos are asked for, which exist, and whether the log agrees."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import RunConfig
from .errors import UsageError
from .mp4_header import count_frames
from .output.camera_tag import CAMERA, camera_of_file
from .output.tree import png_dir, video_path
from .views import View, plan_views

log = logging.getLogger(__name__)

CONFLICTS_SHOWN = 5
LONGEST_NAME = 200  # bytes; file systems allow 255, and the MP4's temporary name is 52 longer than the video's
Logged = Callable[[str, str], Mapping[str, Any] | None]  # (video, label) -> what the parameter log says


@dataclass(frozen=True)
class VideoJob:
    """One video of the list, with the views asked for."""

    name: str
    views: tuple[View, ...]
    done: frozenset[str]  # labels of the views whose file is there and whole
    refused: str | None = None  # why the name cannot be a video

    @property
    def todo(self) -> list[View]:
        """The views to make."""
        return [view for view in self.views if view.label not in self.done]


def unique_names(names: Iterable[str]) -> list[str]:
    """The names in their order, each once, without the trailing slash a shell's completion leaves."""
    given = [name.rstrip("/") or name for name in names]
    once = list(dict.fromkeys(given))
    if len(once) < len(given):
        twice = [name for name, count in Counter(given).items() if count > 1]
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        log.warning("named more than once, done once: %s%s", ", ".join(twice[:5]), more)
    return once


def refused_name(name: str) -> str | None:
    """Why `name` cannot be a folder below the tracked root, or None when it can."""
    if not name or name in (".", "..") or set(name) & set("/\\\0"):
        return f"{name!r} is not a video name; expected the name of one folder below --tracked_root"
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        return f"{name!r} is not valid Unicode; rename the folder"
    if len(encoded) > LONGEST_NAME:
        return f"{name[:40]!r}... is too long a name ({len(encoded)} bytes, at most {LONGEST_NAME}); rename the folder"
    return None


def make_work_list(
    config: RunConfig,
    names: Iterable[str],
    logged: Logged,
) -> list[VideoJob]:
    """One job per video. Only looks at files of the output tree, and only at their headers.

    Args:
        logged: what the log says about a view of an earlier run.

    Raises:
        UsageError: bad difficulties, or a view in the log has another camera than this run would give it.
    """
    jobs, conflicts = [], []
    for name in names:
        refused = refused_name(name)
        speakable = name.encode("utf-8", "replace").decode()
        views = plan_views(speakable, config.difficulties, config.base_seed, config.views_per_difficulty)
        done = set()
        for view in () if refused or config.overwrite else views:
            entry = logged(name, view.label)
            complete = is_complete(config, name, view, entry)
            if complete and (entry is None or entry.get("status") == "failed"):
                made = camera_of_file(video_path(config.output_root, view.label, name))
                if entry is None:  # killed before it was logged, or the log is lost: the file knows its camera
                    entry = made
                elif made is None or _conflict(name, view, made):  # the file of an earlier camera
                    complete = False
            if entry is not None and (complete or entry.get("status") != "failed"):
                conflicts += _conflict(name, view, entry)
            if complete:
                done.add(view.label)
        jobs.append(VideoJob(speakable, tuple(views), frozenset(done), refused))
    if conflicts:
        raise UsageError(_explain(conflicts))
    return jobs


def is_complete(config: RunConfig, name: str, view: View, entry: Mapping[str, Any] | None) -> bool:
    """Whether everything asked for of a view is there and whole; a damaged video is told in the log."""
    path = video_path(config.output_root, view.label, name)
    try:
        frames = count_frames(path)
        logged = (entry or {}).get("frames", frames)
        if frames != logged:
            raise ValueError(f"it has {frames} frames, the log says {logged}")
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        log.warning("%s is damaged (%s); it is made again", path, error)
        return False
    return not config.save_frame_png or _count_pngs(png_dir(config.output_root, view.label, name)) == frames


def _count_pngs(folder: Path) -> int:
    try:
        return sum(name.endswith(".png") and not name.startswith(".") for name in os.listdir(folder))
    except OSError:
        return 0


def _conflict(name: str, view: View, entry: Mapping[str, Any]) -> list[str]:
    """One line that shows both cameras, or nothing when they agree."""
    known = [key for key in CAMERA if entry.get(key) is not None]
    if all(entry[key] == getattr(view, key) for key in known):
        return []
    then = ", ".join(f"{key} {entry[key]}" for key in known)
    now = ", ".join(f"{key} {getattr(view, key)}" for key in known)
    return [f"  {name} / {view.label}\n    made with: {then}\n    this run:   {now}"]


def _explain(conflicts: list[str]) -> str:
    more = len(conflicts) - CONFLICTS_SHOWN
    shown = "\n".join(conflicts[:CONFLICTS_SHOWN]) + (f"\n  and {more} more" if more > 0 else "")
    return (
        f"{len(conflicts)} views were made with another camera than this run would give them:\n{shown}\n"
        "The camera follows from --base_seed and from the number and order of --difficulties. Use those of the earlier "
        "run, or another --output_root, or --overwrite to make these views again"
    )
