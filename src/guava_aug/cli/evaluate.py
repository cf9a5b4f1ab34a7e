"""`guava-aug evaluate`: how near a model comes to the truth, on people it has never seen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ..config import DEFAULT_DIFFICULTIES
from ..errors import UsageError
from ..malloc import keep_freed_memory
from .exit_codes import OK, catch_sigterm
from .parsing import MaybePath, Switch, parse

if TYPE_CHECKING:
    from rich.table import Table

    from ..evaluation.measure import PersonResult, Scores
    from ..evaluation.report import Floor

DESCRIPTION = """\
Measure a model on synthetic people that were held out of its training.

The truth of every view is drawn by the generator, so PSNR and SSIM are exact: of the source's own camera over the
motion, and of new cameras. Two baselines are measured with it: the input frame as it is, and the source picture
projected on the body. Writes evaluation.json and one picture of pictures per view.
"""

EXAMPLES = """\
examples:
  guava-aug evaluate --bank bank.npz
  guava-aug evaluate --people 1 --frames 20 --json result.json
  guava-aug evaluate --seeds 9003 9004 --difficulties medium --model_path mine.safetensors
"""

_COLUMNS = {
    "psnr": "PSNR", "ssim": "SSIM", "person_psnr": "person PSNR", "person_ssim": "person SSIM",
    "person_delta_e": "person dE", "face_psnr": "face PSNR", "hands_psnr": "hands PSNR",
}  # fmt: skip


@dataclass(frozen=True)
class EvaluateFlags:
    """Flags of evaluate."""

    people: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Only the first N people. Left out: all 8 that are held out."""
    frames: Annotated[int, arg(metavar="T")] = 20
    """Frames per person, evenly spaced over 4 seconds of motion."""
    seeds: Annotated[tuple[int, ...], arg(metavar="SEED [SEED ...]", help_behavior_hint="")] = ()
    """Other people of the generator, by seed."""
    bank: MaybePath = None
    """Bundle of clothes, hair and skins (python -m guava_aug.demo.pack_bank). Left out: people painted on the body."""
    model_path: MaybePath = None
    """The model, on the free body. Left out: the embedded one."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """GPU number or cpu. A machine without a GPU uses its CPU."""
    difficulties: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = DEFAULT_DIFFICULTIES
    """New views to measure. Their cameras do not depend on which are named."""
    base_seed: Annotated[int, arg(metavar="INT")] = 42
    """Another number gives other cameras."""
    output: Annotated[Path, arg(metavar="DIR")] = Path("evaluation_output")
    """Folder of the pictures and of evaluation.json."""
    json: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the figures here instead."""
    quiet: Switch = False
    """Only problems and the table."""


def main(argv: Sequence[str]) -> int:
    """0 when everything is measured, whether or not the floors are met."""
    flags = parse(EvaluateFlags, argv, "guava-aug evaluate", DESCRIPTION, EXAMPLES)
    catch_sigterm()
    keep_freed_memory()
    from rich.console import Console

    from ..demo.bank import Bank
    from ..demo.pairs import TRAINING_SEEDS
    from ..device import choose_device
    from ..evaluation import measure, report
    from ..model import EMBEDDED, load_model
    from ..record import machine, versions, write_record
    from ..views.difficulty import check_difficulties
    from .terminal import speaking

    seeds, frames = chosen_seeds(flags), measure.frame_numbers(flags.frames)
    difficulties = check_difficulties(flags.difficulties)
    begun = time.monotonic()
    with speaking(flags.quiet, False) as progress:
        bank = Bank.load(flags.bank) if flags.bank else Bank.bare()
        device = choose_device(flags.device)
        model = load_model(flags.model_path or EMBEDDED, device)
        measure.check_model_fits(model, bank)
        views = 1 + len(difficulties)
        people: list[PersonResult] = []
        progress.start(len(seeds), views * len(seeds))
        try:
            for i, seed in enumerate(seeds):
                progress.video(measure.person_name(seed), views)
                person = measure.measure_person(
                    model, bank, seed, frames, difficulties, base_seed=flags.base_seed,
                    examples_of=report.example_frames(frames, len(seeds)) if i < report.SHEET_ROWS else (),
                    on_frame=lambda view: progress.frames(1, len(frames)),
                )  # fmt: skip
                people.append(person)
                ours = person.scores[measure.SELF]["ours"].person_psnr
                progress.finish_video(f"self {ours:.2f} dB on the person" if ours is not None else "measured")
        finally:
            progress.close()
    mean = report.mean_scores(people)
    target = flags.json or flags.output / "evaluation.json"
    content = report.to_json(
        people,
        versions=versions(),
        machine=machine(device),
        seconds=round(time.monotonic() - begun, 1),
        checkpoint={"path": model.source, "sha256": report.file_digest(Path(model.source))},
        bank=None if flags.bank is None else {"path": str(flags.bank), "sha256": report.file_digest(flags.bank)},
        seeds=list(seeds),
        held_out=not any(s in TRAINING_SEEDS for s in seeds),
        base_seed=flags.base_seed,
        frames=frames,
        image_size=model.config.image_size,
    )
    write_record(target, content)
    sheets = report.write_sheets((e for p in people for e in p.examples), flags.output)
    console = Console(highlight=False, soft_wrap=True)
    console.print(scores_table(mean, len(people), len(frames), dressed=flags.bank is not None))
    console.print(floors_table(report.floors(mean)))
    console.print(f"figures:  {target}\npictures: {', '.join(str(s) for s in sheets)}", markup=False)
    return OK


def chosen_seeds(flags: EvaluateFlags) -> tuple[int, ...]:
    """The people to measure.

    Raises:
        UsageError: none, one twice, a negative seed, or more people than there are seeds.
    """
    from ..demo.pairs import HELD_OUT_SEEDS

    seeds = flags.seeds or HELD_OUT_SEEDS
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(f"--seeds {' '.join(map(str, seeds))}: expected different numbers, 0 or more")
    count = len(seeds) if flags.people is None else flags.people
    if not 1 <= count <= len(seeds):
        more = "" if flags.seeds else "; name others with --seeds"
        raise UsageError(f"--people is {count}; expected 1 to {len(seeds)}{more}")
    return tuple(seeds[:count])


def scores_table(mean: dict[str, dict[str, Scores]], people: int, frames: int, *, dressed: bool) -> Table:
    """One row per view and method."""
    from rich.table import Table

    who = f"{people} {'person' if people == 1 else 'people'}"
    kind = "dressed" if dressed else "painted on the body (dressed ones: --bank)"
    each = f"{frames} {'frame' if frames == 1 else 'frames'} each"
    table = Table(title=f"{who} {kind}, {each}; PSNR in dB", title_justify="left")
    table.add_column("view")
    table.add_column("method")
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    for view, by_method in mean.items():
        for i, (method, scores) in enumerate(by_method.items()):
            values = {name: getattr(scores, name) for name in _COLUMNS}
            cells = ["-" if v is None else f"{v:.3f}" if "ssim" in n else f"{v:.2f}" for n, v in values.items()]
            table.add_row("" if i else view, method, *cells, end_section=i == len(by_method) - 1)
    return table


def floors_table(floors: Sequence[Floor]) -> Table:
    """What was promised, what was found, and whether it is met."""
    from rich.table import Table

    table = Table(title="floors (ours, dB)", title_justify="left")
    for name in ("floor", "expected", "found", "met"):
        table.add_column(name, justify="right" if name in ("expected", "found") else "left")
    for f in floors:
        found = "-" if f.found is None else f"{f.found:.2f}"
        table.add_row(f.what, f">= {f.expected:g}", found, "yes" if f.met else "NO")
    return table
