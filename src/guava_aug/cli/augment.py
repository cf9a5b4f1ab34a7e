"""`guava-aug augment`: from videos to views of the people in them, in one command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from guava_aug.batch.config import RunConfig
from guava_aug.batch.options import options_of
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.cli.exit_codes import OK, SOME_FAILED
from guava_aug.cli.flags import flags_of
from guava_aug.cli.parsing import Switch, parse, scan
from guava_aug.cli.track import show_tracking, split_words
from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.shutdown import GracefulShutdown
from guava_aug.runtime.text import pluralize

if TYPE_CHECKING:
    from guava_aug.batch.results import RunResult
    from guava_aug.batch.tracking.run import TrackResult
    from guava_aug.runtime.progress import Progress

DESCRIPTION = """\
Track the person in videos, and render the clips from new cameras: `guava-aug track`, then `guava-aug run`.

Takes the flags of both. The tracking goes to --tracked_root, by default OUTPUT_ROOT with _tracked added. A folder of
clips that are tracked already may be given instead of videos. On a GPU the avatar of each clip is fitted to the clip
first (--personalize auto), unless the output folder was begun without. Run the same command again to make what is
missing.
"""

EXAMPLES = """\
examples:
  guava-aug augment interview.mp4 --output_root augmented
  guava-aug augment videos/ --output_root augmented --difficulties easy,medium --views_per_difficulty 5
  guava-aug augment tracked/ --output_root augmented     # as guava-aug run tracked augmented
"""

POSITIONALS = "VIDEO [VIDEO ...]"
_OF_RUN = {declared.name: declared for declared in options_of(RunConfig)}
_OF_TRACK = {declared.name: declared for declared in options_of(TrackConfig)}
_TRACK_ONLY = [name for name in _OF_TRACK if name not in _OF_RUN]
_SHARED = [name for name in _OF_TRACK if name in _OF_RUN and name not in ("videos", "retries", "timeout")]

AugmentConfig = make_dataclass(
    "AugmentConfig",
    [
        (f.name, _OF_TRACK[f.name].kind, field(default=f.default, metadata=f.metadata))
        for f in fields(TrackConfig)
        if f.name in _TRACK_ONLY
    ]
    + [
        (f.name, _OF_RUN[f.name].kind, field(default="auto", metadata=f.metadata))
        for f in fields(RunConfig)
        if f.name == "personalize"
    ],
    bases=(RunConfig,),
    frozen=True,
)
_RunAndTrackFlags = flags_of(AugmentConfig)


@dataclass(frozen=True)
class AugmentFlags:
    """The flags of both commands, and what only this one has."""

    run: Annotated[_RunAndTrackFlags, arg(name="")]  # type: ignore[valid-type]
    json: Switch = False
    """Print the result as one JSON object on standard output; all else goes to standard error."""


def main(argv: Sequence[str]) -> int:
    """0 when everything is made, 3 when something failed."""
    prog = "guava-aug augment"
    words, videos = split_words(AugmentFlags, argv)
    given = scan(AugmentFlags, words)
    if "tracked_root" not in given.given and "output_root" in given.values:
        words += ["--tracked_root", f"{given.values['output_root'].rstrip('/')}_tracked"]
    flags: Any = parse(AugmentFlags, words, prog, DESCRIPTION, EXAMPLES, POSITIONALS)
    if not videos:
        raise UsageError("no video is named; give files, folders of pictures, or folders of videos")
    both = flags.run.config("batch")
    config = RunConfig(**{declared.name: getattr(both, declared.name) for declared in options_of(RunConfig)})
    tracked = _tracked_folder(videos)
    tracking = TrackConfig(
        videos=tuple(videos),
        **{name: getattr(both, name) for name in (*_TRACK_ONLY, *_SHARED)},
    )
    keep_freed_memory()
    quiet = flags.run["quiet"]
    with GracefulShutdown(config.grace) as stop:  # before the heavy imports
        from guava_aug.batch.journal.run_record import debug_log_path
        from guava_aug.cli.terminal import show_summary, speaking

        with speaking(quiet, flags.run["verbose"], debug_log_path(config.output_root, config.part_id)) as progress:
            flags.run.say_part()
            found: TrackResult | None = None
            if tracked is not None:
                result: RunResult | None = _render(replace(config, tracked_root=tracked), progress, stop)
            else:
                found, result = _track_and_render(tracking, config, progress, stop)
    if flags.json:
        both_results = {
            "tracking": None if found is None else found.to_json(),
            "views": None if result is None else result.to_json(),
        }
        print(json.dumps(both_results, indent=2))
    if found is not None:
        show_tracking(found, quiet, to_stderr=flags.json, next_step=False)
    if result is not None:
        show_summary(result, quiet, to_stderr=flags.json)
    return OK if (found is None or found.ok) and (result is not None and result.ok) else SOME_FAILED


def _track_and_render(
    tracking: TrackConfig, config: RunConfig, progress: Progress, stop: GracefulShutdown
) -> tuple[TrackResult, RunResult | None]:
    """Return how the tracking ended, and the views of what could be tracked; None: nothing could."""
    from guava_aug.batch.tracking.run import track
    from guava_aug.batch.validate import check_flags, refuse_file_in_the_way

    check_flags(config)  # now, and not after the tracking
    refuse_file_in_the_way(config.output_root, "--output_root")
    only = None if config.videos is None else frozenset(config.videos)
    found = track(tracking, progress=progress, stop=stop, only=only)
    clips = tuple(clip for video in found.clips.values() for clip in video)
    if not clips:
        return found, None
    # a part of a job renders what it has tracked: the names of clips would fall into other parts than their videos
    return found, _render(replace(config, videos=clips, shard=None, part_id=config.part_id), progress, stop)


def _render(config: RunConfig, progress: Progress, stop: GracefulShutdown) -> RunResult:
    from guava_aug.batch.run import run

    return run(config, progress=progress, stop=stop)


def _tracked_folder(videos: Sequence[str]) -> Path | None:
    """Return the folder of tracked clips that was given instead of videos; None: videos were given.

    Raises:
        UsageError: both were given.
    """
    from guava_aug.tracked.layout import scan_videos

    folders = []
    for word in map(Path, videos):
        try:
            if word.is_dir() and scan_videos(word).tracked:
                folders.append(word)
        except (InputError, OSError):
            continue
    if not folders:
        return None
    if len(videos) > 1:
        raise UsageError(
            f"{folders[0]} holds tracked clips, and {pluralize(len(videos) - 1, 'other path')} beside it; give one "
            "folder of tracked clips, or videos"
        )
    return folders[0]
