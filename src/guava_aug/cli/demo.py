"""`guava-aug demo`: the whole way on the clips and the model that ship with the package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ..config import DEFAULT_DIFFICULTIES, RunConfig
from ..errors import InputError
from ..malloc import keep_freed_memory
from .exit_codes import OK, SOME_FAILED, catch_sigterm
from .parsing import Switch, parse

if TYPE_CHECKING:
    import numpy as np

    from ..results import RunResult

DESCRIPTION = """\
Augment a bundled clip with the embedded model.

Needs no files and no GPU. Writes the same output tree as `guava-aug run`, and contact_sheet.png: the input and every
view at some moments.
"""

EXAMPLES = """\
examples:
  guava-aug demo
  guava-aug demo --output /tmp/demo --clips signer_b signer_c --views_per_difficulty 3
"""


@dataclass(frozen=True)
class DemoFlags:
    """Flags of demo."""

    output: Annotated[Path, arg(metavar="DIR")] = Path("demo_output")
    """Folder of the results."""
    clips: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint="")] = ()
    """Which of the bundled clips: signer_a, signer_b, signer_c. Left out: the first."""
    difficulties: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = DEFAULT_DIFFICULTIES
    """How far the camera may move."""
    views_per_difficulty: Annotated[int, arg(metavar="K")] = 1
    """Views of each difficulty."""
    base_seed: Annotated[int, arg(metavar="INT")] = 42
    """Another number gives other cameras."""
    background: Annotated[str, arg(metavar="MODE")] = "plate"
    """As for `guava-aug run`."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """GPU number or cpu. A machine without a GPU uses its CPU."""
    moments: Annotated[int, arg(metavar="N")] = 6
    """Pictures per row of the contact sheet."""
    overwrite: Switch = False
    """Make existing views again."""
    quiet: Switch = False
    """Only problems and where the results are."""


def main(argv: Sequence[str]) -> int:
    """0 when everything is made."""
    flags = parse(DemoFlags, argv, "guava-aug demo", DESCRIPTION, EXAMPLES)
    catch_sigterm()
    keep_freed_memory()
    from ..demo import demo_root
    from ..jobs import run
    from ..model import EMBEDDED
    from ..output import contact_sheet
    from ..record import debug_log_path
    from ..tracked import list_videos
    from .terminal import show_summary, speaking

    if not demo_root().is_dir():
        raise InputError(f"{demo_root()} is missing: this installation has no demo clips; install the package again")
    config = RunConfig(
        tracked_root=demo_root(),
        output_root=flags.output,
        videos=flags.clips or tuple(list_videos(demo_root())[:1]),
        difficulties=flags.difficulties,
        views_per_difficulty=flags.views_per_difficulty,
        base_seed=flags.base_seed,
        background=flags.background,
        device=flags.device,
        overwrite=flags.overwrite,
        model_path=Path(EMBEDDED),
    )
    with speaking(flags.quiet, False, debug_log_path(flags.output, None)) as progress:
        result = run(config, progress=progress)
    show_summary(result, flags.quiet)
    if any(view.status != "failed" for view in result.views):
        sheet = flags.output / "contact_sheet.png"
        contact_sheet(list(_rows(demo_root(), result, flags.moments)), sheet)
        print(f"\npictures: {sheet}\nvideos:   {flags.output}/<view>/<clip>/...mp4\ncameras:  {result.params_log}")
    return OK if result.ok else SOME_FAILED


def _rows(tracked_root: Path, result: RunResult, moments: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Per clip: the input, then every view, at the same moments; label and pictures uint8 [H, W, 3]."""
    import numpy as np

    from ..tracked import TrackedVideo

    for name in dict.fromkeys(view.video for view in result.views if view.status != "failed"):
        video = TrackedVideo.open(tracked_root, name)
        indices = sorted({int(i) for i in np.linspace(0, video.num_frames - 1, max(moments, 1)).round()})
        yield f"{name}: input", [video.read_frame(i)[0] for i in indices]
        for view in result.views:
            if view.video == name and view.status != "failed" and view.path is not None:
                label = f"{name}: {view.label}   yaw {view.yaw:+.2f}, pitch {view.pitch:+.2f}, zoom {view.zoom:.2f}"
                yield label, _pictures(view.path, indices)


def _pictures(path: Path, indices: Sequence[int]) -> list[np.ndarray]:
    import av

    wanted = set(indices)
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for i, f in enumerate(container.decode(video=0)) if i in wanted]
