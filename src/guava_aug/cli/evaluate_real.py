"""`guava-aug evaluate --real`: how near an avatar comes to people who were filmed."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from guava_aug.cli.evaluate import EvaluateFlags, write_text
from guava_aug.cli.exit_codes import OK, SOME_FAILED
from guava_aug.errors import InputError, UsageError
from guava_aug.runtime.files import is_there
from guava_aug.runtime.text import explain, in_short

if TYPE_CHECKING:
    from guava_aug.apps.evaluation.likeness import Likeness
    from guava_aug.avatar.model import GuavaModel

log = logging.getLogger(__name__)

PACK, SESSION = "pack.json", "camera_array.toml"
_FOR_VIDEOS: tuple[str, ...] = ("video_list",)
_FOR_SESSIONS: tuple[str, ...] = ("source_camera", "session_frames", "recording")
_FOR_VIEWS = ("fit_cameras", "body_fit")


def evaluate_real(flags: EvaluateFlags) -> int:
    """Return 0 when everything is measured, 3 when some videos could not be."""
    folder = _checked(flags)

    from guava_aug.apps.evaluation import real_report
    from guava_aug.avatar.model import EMBEDDED, load_model
    from guava_aug.batch.journal.run_record import machine, versions, write_record
    from guava_aug.cli.terminal import Terminal, speaking
    from guava_aug.runtime.device import choose_device
    from guava_aug.runtime.files import file_sha256

    begun = time.monotonic()
    results: list[Likeness] = []
    failed: dict[str, str] = {}
    with speaking(flags.quiet, False):
        device = choose_device(flags.device)
        model = load_model(flags.model_path or EMBEDDED, device)
        if is_there(folder / PACK) or is_there(folder / SESSION):
            results.append(_calibrated(flags, folder, model))
        else:
            results, failed = _videos(flags, folder, model)
    target = flags.json or flags.output / "evaluation.json"
    source = Path(model.source)
    content = real_report.to_json(
        results,
        versions=versions(),
        machine=machine(device),
        seconds=round(time.monotonic() - begun, 1),
        checkpoint={"path": model.source, "sha256": file_sha256(source) if source.is_file() else None},
        real=str(folder),
        personalize=flags.personalize,
        failed=failed,
    )
    write_record(target, content)
    console = Terminal(soft_wrap=True)
    if results:
        table = flags.output / "evaluation.md"
        write_text(table, real_report.markdown(results))
        sheets = real_report.write_strips(results, flags.output)
        for line in real_report.summary(results):
            console.say(line)
        console.say(f"tables:   {table}")
        console.say(f"pictures: {', '.join(str(s) for s in sheets)} (they show the persons)")
    console.say(f"figures:  {target}")
    return SOME_FAILED if failed else OK


def _checked(flags: EvaluateFlags) -> Path:
    """Return the folder. Raises UsageError when it is not there, or when flags do not belong to what it is."""
    folder = flags.real
    assert folder is not None
    if not folder.is_dir():
        raise UsageError(f"--real {folder}: there is no such folder")
    views, session = is_there(folder / PACK), is_there(folder / SESSION)
    defaults = EvaluateFlags()
    foreign = _FOR_SESSIONS if views else ()
    foreign += _FOR_VIDEOS if views or session else (*_FOR_SESSIONS, *_FOR_VIEWS)
    wrong = [name for name in foreign if getattr(flags, name) != getattr(defaults, name)]
    if wrong:
        what = "calibrated views" if views else "a session of caliscope" if session else "tracked videos"
        raise UsageError(f"--{wrong[0]} is not for {what}, which {folder} holds; leave it out")
    if session and not views and flags.source_camera is None:
        raise UsageError(f"{folder} is a session of several cameras: say which one is fitted to, with --source_camera")
    if flags.frames < 1 or (flags.steps is not None and flags.steps < 1):
        raise UsageError("--frames and --steps: expected 1 or more")
    if flags.steps is not None and flags.personalize == "off":
        raise UsageError("--steps needs a fit: give --personalize fast or full")
    return folder


def _videos(flags: EvaluateFlags, root: Path, model: GuavaModel) -> tuple[list[Likeness], dict[str, str]]:
    """Return what was measured, and why others were not, by name."""
    import torch

    from guava_aug.apps.evaluation.self_view import measure_self_view
    from guava_aug.batch.plan import unique_names
    from guava_aug.runtime.device import lack_of_memory_as_such, release_memory
    from guava_aug.tracked import BodyOutline, TrackedVideo
    from guava_aug.tracked.layout import check_root, real_names, scan_videos, why_no_videos

    try:
        check_root(root)
    except InputError as error:
        raise UsageError(str(error)) from None
    names = real_names(root, unique_names(flags.video_list)) if flags.video_list else list(scan_videos(root).tracked)
    if not names:
        raise UsageError(why_no_videos(root))
    outline = BodyOutline(model.body)
    results: list[Likeness] = []
    failed: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        log.info("[%d/%d] %s", number, len(names), name)
        try:
            video = TrackedVideo.open(root, name, source_frame=flags.source_frame)
            with lack_of_memory_as_such():
                found = measure_self_view(
                    model, video, flags.personalize, most=flags.frames, steps=flags.steps, outline=outline
                )
            results.append(found)
        except torch.cuda.OutOfMemoryError as error:
            failed[name] = f"the GPU has too little memory ({in_short(error)}); give --personalize fast"
        except (InputError, UsageError) as error:
            failed[name] = explain(error)
        if name in failed:
            log.error("%s failed: %s", name, failed[name])
            release_memory(model.device)
    return results, failed


def _calibrated(flags: EvaluateFlags, folder: Path, model: GuavaModel) -> Likeness:
    from guava_aug.apps.evaluation.calibrated import measure_calibrated
    from guava_aug.apps.evaluation.real import CalibratedPack
    from guava_aug.apps.evaluation.self_view import preset_of

    if not is_there(folder / PACK):
        from guava_aug.apps.evaluation.session_pack import pack_of_session

        folder = pack_of_session(
            folder, flags.output / "views", str(flags.source_camera), model.body, model.device,
            frames=flags.session_frames, recording=flags.recording, size=model.config.image_size,
        )  # fmt: skip
    config = None if flags.personalize == "off" else preset_of(flags.personalize, flags.steps)
    return measure_calibrated(
        model, CalibratedPack(folder), config, personalize_name=flags.personalize, fit_name=flags.body_fit,
        source_frame=flags.source_frame, cameras=flags.fit_cameras,
    )  # fmt: skip
