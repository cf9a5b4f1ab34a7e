"""`guava-aug import`: a tracked folder from SMPL-X parameters of another tool."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from guava_aug.batch.tracking.config import DEFAULT_TRACKED_ROOT
from guava_aug.cli.exit_codes import OK
from guava_aug.cli.parsing import MaybePath, Switch, parse
from guava_aug.cli.streams import say
from guava_aug.errors import UsageError
from guava_aug.runtime.shutdown import GracefulShutdown
from guava_aug.runtime.text import pluralize

DESCRIPTION = """\
Make a tracked video of a video and the SMPL-X parameters that another tool found in it.

The parameters are in one .npz without pickled objects: global_orient, body_pose, transl, and K or focal and princpt, in
the axes of the camera (x right, y down, z forward) and in metres; betas, hands, jaw, eyes and expression where they are
known. docs/own_video.md has all keys. Look at tracking.png in the folder that is made.
"""

EXAMPLES = """\
examples:
  guava-aug import talk.mp4 talk_smplx.npz
  guava-aug import talk.mp4 talk_smplx.npz --tracked_root tracked --name talk --masks talk_masks/
  guava-aug import talk.mp4 talk_smplx.npz --model_path assets/GUAVA
"""


@dataclass(frozen=True)
class ImportFlags:
    """Flags of import."""

    video: Annotated[Positional[Path], arg(metavar="VIDEO")]
    """The video, or a folder of its pictures."""
    parameters: Annotated[Positional[Path], arg(metavar="PARAMETERS.npz")]
    """The parameters of its frames."""
    tracked_root: Annotated[Path, arg(metavar="PATH")] = DEFAULT_TRACKED_ROOT
    """Folder in which the tracked folder is made."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Name of the tracked folder. Default: that of the video, without its suffix."""
    masks: MaybePath = None
    """A video or a folder of pictures of the video's size, white where the person is. Default: nets find the person."""
    audio: Annotated[Literal["copy", "none"], arg(metavar="copy|none")] = "copy"
    """Keep the sound with the clip; the MP4s of its views get it."""
    overwrite: Switch = False
    """Replace the tracked folder if it is there."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """As for `guava-aug track`; for the nets."""
    model_path: MaybePath = None
    """Model that will render the video: its body is posed. Default: as for run."""
    guava_root: MaybePath = None
    """As for run."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when the folder is written."""
    flags = parse(ImportFlags, argv, "guava-aug import", DESCRIPTION, EXAMPLES)
    for path in (flags.video, flags.parameters, flags.masks):  # before the model is loaded, which takes seconds
        if path is not None and not os.path.exists(path):
            raise UsageError(f"{path} is not there; check the path")
    from guava_aug.avatar.model import load_body
    from guava_aug.batch.config import RunConfig
    from guava_aug.batch.tracking.inputs import name_of
    from guava_aug.batch.validate import model_source
    from guava_aug.cli.terminal import speaking
    from guava_aug.runtime.device import choose_device
    from guava_aug.tracked.importing import import_video

    name = name_of(flags.video) if flags.name is None else flags.name
    config = RunConfig(flags.tracked_root, Path(), model_path=flags.model_path, guava_root=flags.guava_root)
    with GracefulShutdown() as stop, speaking(quiet=False, verbose=False) as shown:
        device = "cpu" if flags.masks is not None else choose_device(flags.device)
        body = load_body(model_source(config), guava_root=flags.guava_root)
        shown.start(1, 1, tracking=True)
        shown.video(name, 1)
        message = "failed"

        def step(done: int, total: int) -> None:
            stop()
            shown.frames(name, done, total)

        try:
            clip = import_video(
                flags.video, flags.parameters, flags.tracked_root, body, name=name, masks=flags.masks,
                keep_audio=flags.audio == "copy", overwrite=flags.overwrite, device=device, step=step,
            )  # fmt: skip
            message = "imported"
        finally:
            shown.finish_video(name, message)
            shown.close()
    say(
        f"{clip.path}: {pluralize(clip.num_frames, 'frame')} of {clip.size} x {clip.size} pixels, {float(clip.fps):g} "
        f"frames per second; look at {clip.path / 'tracking.png'}"
    )
    return OK
