"""`guava-aug demo`: a run on the clips and the model that ship with the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from guava_aug.batch.config import DEFAULT_DIFFICULTIES, RunConfig
from guava_aug.cli.exit_codes import OK, SOME_FAILED, catch_sigterm
from guava_aug.cli.parsing import Switch, parse
from guava_aug.cli.streams import say
from guava_aug.errors import InputError, UsageError, printable
from guava_aug.runtime.cpus import keep_freed_memory

if TYPE_CHECKING:
    import numpy as np

    from guava_aug.batch.results import RunResult
    from guava_aug.output.contact_sheet import Block

DESCRIPTION = """\
Render the bundled clips from new cameras with the embedded model.

Needs no files and no GPU. One clip is rendered whole and one second of each other one, as `guava-aug run` does and
into the same output tree. contact_sheet.png shows the input and every view at several times.
"""

EXAMPLES = """\
examples:
  guava-aug demo
  guava-aug demo --base_seed 7 --output demo_7                      # other cameras
  guava-aug demo --clips signer_b signer_c --views_per_difficulty 3
"""

# Of what may differ from views that are there, where `guava-aug run` has flags that the demo lacks.
OWN_NAMES = {"weights": "the embedded model, another one in each version of guava-aug", "fps": "frames per second"}
ADVICE = "Give another --output DIR, or --overwrite to make these views again"


@dataclass(frozen=True)
class DemoFlags:
    """Flags of demo."""

    output: Annotated[Path, arg(metavar="DIR")] = Path("demo_output")
    """Output folder."""
    clips: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint="")] = ()
    """Bundled clips to render whole: signer_a, signer_b, signer_c. Default: the first, and 1 s of the others."""
    difficulties: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = DEFAULT_DIFFICULTIES
    """Ranges of the camera."""
    views_per_difficulty: Annotated[int, arg(metavar="K")] = 1
    """Views of each difficulty."""
    base_seed: Annotated[int, arg(metavar="INT")] = 42
    """Seed of the cameras."""
    background: Annotated[str, arg(metavar="MODE")] = "plate"
    """As for `guava-aug run`."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """GPU number or cpu. A machine without a GPU uses its CPU."""
    moments: Annotated[int, arg(metavar="N")] = 6
    """Pictures per row of the contact sheet."""
    overwrite: Switch = False
    """Render existing views again."""
    quiet: Switch = False
    """Print only problems and the paths of the results."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when everything is made."""
    flags = parse(DemoFlags, argv, "guava-aug demo", DESCRIPTION, EXAMPLES)
    catch_sigterm()
    keep_freed_memory()
    from guava_aug.apps.synthetic import demo_root
    from guava_aug.apps.synthetic.clips import short_demo
    from guava_aug.avatar.model import EMBEDDED
    from guava_aug.batch.config_diff import FLAGS, ConfigMismatchError
    from guava_aug.batch.journal.run_record import debug_log_path
    from guava_aug.batch.run import run
    from guava_aug.cli.terminal import show_summary, speaking
    from guava_aug.output.contact_sheet import contact_sheet
    from guava_aug.tracked import list_videos
    from guava_aug.views.difficulty import check_difficulties

    if flags.moments < 1:
        raise UsageError(f"--moments is {flags.moments}; expected at least 1")
    if not demo_root().is_dir():
        raise InputError(f"{demo_root()} is missing: this installation has no demo clips; install the package again")
    if flags.output.is_file():
        raise UsageError(f"--output {flags.output} is a file; choose another folder")
    check_difficulties(flags.difficulties)
    tracked, videos, bundled = demo_root(), flags.clips, list_videos(demo_root())
    unknown = [name for name in videos if name not in bundled]
    if unknown:
        raise UsageError(f"--clips: there is no bundled clip {unknown[0]!r}; expected some of {', '.join(bundled)}")
    if not videos:
        tracked = flags.output / "tracked"
        videos = tuple(short_demo(demo_root(), bundled, tracked))
    config = RunConfig(
        tracked_root=tracked,
        output_root=flags.output,
        videos=videos,
        difficulties=flags.difficulties,
        views_per_difficulty=flags.views_per_difficulty,
        base_seed=flags.base_seed,
        background=flags.background,
        device=flags.device,
        overwrite=flags.overwrite,
        model_path=Path(EMBEDDED),
    )
    with speaking(flags.quiet, False, debug_log_path(flags.output, None)) as progress:
        try:
            result = run(config, progress=progress)
        except ConfigMismatchError as error:
            raise ConfigMismatchError(error.differences, {**FLAGS, **OWN_NAMES}, ADVICE) from None
    show_summary(result, flags.quiet)
    made = [view.path for view in result.views if view.status != "failed" and view.path is not None]
    if made:
        sheet = flags.output / "contact_sheet.png"
        contact_sheet([_block(tracked, result, name, flags.moments) for name in _names(result)], sheet)
        print("\nvideos:   " + "\n          ".join(printable(path) for path in made))
        say(f"cameras:  {result.params_log}")
        say(f"pictures: {sheet}")
    return OK if result.ok else SOME_FAILED


def _names(result: RunResult) -> list[str]:
    return list(dict.fromkeys(view.video for view in result.views if view.status != "failed"))


def _block(tracked_root: Path, result: RunResult, name: str, moments: int) -> Block:
    """Return the rows of one clip: the input, then every view, at the same moments."""
    import numpy as np

    from guava_aug.output.contact_sheet import Block
    from guava_aug.tracked import TrackedVideo
    from guava_aug.views import View, viewing_angles

    video = TrackedVideo.open(tracked_root, name)
    indices = sorted({int(i) for i in np.linspace(0, video.num_frames - 1, moments).round()})
    rows = [("input", [video.read_frame(i)[0] for i in indices])]
    for view in result.views:
        if view.video == name and view.status != "failed" and view.path is not None:
            cameras = View.of(view.label, view.sampler or "fixed", view.params).cameras(video.viewmats[0], 1)
            azimuth, elevation = (float(angle[0]) for angle in viewing_angles(cameras.viewmats))
            label = f"{view.label}\nazimuth {azimuth:+.0f} deg\nelevation {elevation:+.0f} deg"
            nominal = [f"{key} {value:+.2f}" for key, value in view.params.items() if key in ("yaw", "pitch")]
            nominal += [f"zoom {view.zoom:.2f}"] if view.zoom is not None else []
            rows.append(("\n".join([label, *nominal]), _pictures(view.path, indices)))
    return Block(name, [f"frame {i}" for i in indices], rows)


def _pictures(path: Path, indices: Sequence[int]) -> list[np.ndarray]:
    """Return some frames of a video, uint8 [H, W, 3]."""
    from guava_aug.output.video import open_video

    wanted = set(indices)
    with open_video(path) as (container, _):
        return [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i in wanted]
