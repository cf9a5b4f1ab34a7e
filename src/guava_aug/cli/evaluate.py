"""`guava-aug evaluate`: the error of a model on synthetic subjects held out of its training, or on real people."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from guava_aug.batch.config import DEFAULT_DIFFICULTIES
from guava_aug.cli.exit_codes import OK, catch_sigterm
from guava_aug.cli.parsing import MaybePath, Switch, parse
from guava_aug.errors import OutputError, UsageError
from guava_aug.runtime.cpus import keep_freed_memory

if TYPE_CHECKING:
    from rich.table import Table

    from guava_aug.apps.evaluation.measure import PersonResult, Scores
    from guava_aug.apps.evaluation.report import Floor
    from guava_aug.runtime.progress import Progress

log = logging.getLogger(__name__)

DESCRIPTION = """\
Measure a model on synthetic subjects that were held out of its training, or with --real on people who were filmed.

The generator renders the ground truth of every view, so PSNR and SSIM are exact: for the source camera over the
motion, and for new cameras. Two baselines are measured too: the unchanged input frame, and the source picture
projected on the body. Writes evaluation.json, evaluation.md (the table) and one image grid per view.

With --variety lifelike they wear loose clothes with patterns and prints, glasses and jewellery, have beards and
make-up, and stand in light of any colour that casts shadows: nearer to people in videos, and harder.

Without --bank the subjects are painted on the bare body. Their figures cannot be compared with those of the dressed
subjects in the README. The bank (12 MB) is packed once from MakeHuman's free assets:
  git lfs install
  git clone --depth 1 https://github.com/makehumancommunity/makehuman-assets
  git clone --depth 1 https://github.com/makehumancommunity/makehuman
  pip install 'guava-aug[bake]'
  python -m guava_aug.apps.synthetic.bake.pack_bank bank.npz \\
      --assets makehuman-assets/base --assets makehuman/makehuman/data

With --real DIR the likeness of real people is measured, before and after the fit that --personalize names.

DIR with tracked videos: every fourth frame is kept back from the fit, and the avatar is compared with these frames in
the video's own camera, over a plain colour.

DIR with calibrated views (pack.json): the avatar is fitted to the source camera and compared in all cameras.

DIR with a session of caliscope (camera_array.toml and its videos): it is tracked and made into such views first.

Writes evaluation.json, evaluation.md (tables, and what the figures mean) and the pictures side by side. They show the
persons: handle them as the videos. FLIP needs: pip install 'guava-aug[evaluate]'.
"""

EXAMPLES = """\
examples:
  guava-aug evaluate --bank bank.npz
  guava-aug evaluate --bank bank.npz --variety lifelike
  guava-aug evaluate --subjects 1 --frames 20 --json result.json
  guava-aug evaluate --bank bank.npz --sheet subjects.jpg --sheet_subjects 4
  guava-aug evaluate --seeds 9003 9004 --difficulties medium --model_path mine.safetensors
  guava-aug evaluate --real tracked --personalize full --video_list signer_1 signer_2 --output likeness
  guava-aug evaluate --real session --source_camera 2 --session_frames 0:61:3 --personalize full
  guava-aug evaluate --real views --fit_cameras 2 3 0 1 --personalize full --steps 500    # upper bound: all cameras
"""


RENAMED = {"people": "subjects", "sheet_people": "sheet_subjects"}


@dataclass(frozen=True)
class EvaluateFlags:
    """Flags of evaluate."""

    subjects: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Only the first N subjects. Default: all 8 that are held out."""
    frames: Annotated[int, arg(metavar="T")] = 20
    """Frames per subject, evenly spaced over 4 seconds of motion. With --real and tracked videos: frames that are
    scored, of those kept back, and steps that steadiness is measured over."""
    seeds: Annotated[tuple[int, ...], arg(metavar="SEED [SEED ...]", help_behavior_hint="")] = ()
    """Other subjects of the generator, by their seeds."""
    variety: Literal["standard", "lifelike"] = "standard"
    """Which subjects: of standard or lifelike clothes, faces and light; each set has eight that are held out."""
    bank: MaybePath = None
    """Clothes, hair and skins of the subjects, see above. Default: subjects painted on the bare body."""
    model_path: MaybePath = None
    """The model, with the free body. Default: the embedded one."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """GPU number or cpu. A machine without a GPU uses its CPU."""
    difficulties: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]")] = DEFAULT_DIFFICULTIES
    """Difficulties of the new views. The cameras of one do not depend on the others."""
    base_seed: Annotated[int, arg(metavar="INT")] = 42
    """Seed of the cameras."""
    output: Annotated[Path, arg(metavar="DIR")] = Path("evaluation_output")
    """Output folder of the pictures and evaluation.json."""
    json: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the results to this file instead of evaluation.json."""
    sheet: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Also write one small picture (.jpg or .png, below 250 kB): truth, ours, mesh, input of each subject and view."""
    sheet_subjects: Annotated[int, arg(metavar="N")] = 2
    """Number of subjects on --sheet."""
    real: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Measure on real people instead: tracked videos, calibrated views, or a session of caliscope, see above."""
    personalize: Literal["off", "fast", "full"] = "off"
    """With --real: the fit whose gain is measured, as for run."""
    video_list: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint="")] = ()
    """With --real and tracked videos: only these."""
    source_frame: Annotated[int, arg(metavar="N")] = 0
    """With --real: the frame, from 0, that the avatar is made from, as for run; one that shows face and hands."""
    steps: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """With --real: steps of the fit. Default: those of --personalize."""
    source_camera: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """With --real and a session: the camera that is tracked and fitted to, such as 2. Views name their own."""
    session_frames: Annotated[str | None, arg(metavar="START:STOP[:STEP]", help_behavior_hint="")] = None
    """With --real and a session: moments that are used, from 0. Leave out those that show a calibration board.
    Default: all; of more than 120 every n-th."""
    recording: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """With --real and a session: folder of the videos, within the session. Default: the only one that has them."""
    fit_cameras: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint="")] = ()
    """With --real and calibrated views: cameras that are fitted to, the source camera first. Default: it alone."""
    body_fit: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """With --real and calibrated views: fits/NAME.npz is the pose of the body. Default: multi, else tracked."""
    quiet: Switch = False
    """Print only problems and the table."""


def main(argv: Sequence[str]) -> int:
    """Return 0 when everything is measured, whether or not the floors are met."""
    flags = parse(EvaluateFlags, argv, "guava-aug evaluate", DESCRIPTION, EXAMPLES, renamed=RENAMED)
    catch_sigterm()
    keep_freed_memory()
    check_kind(flags)
    if flags.real is not None:
        from guava_aug.cli.evaluate_real import evaluate_real

        return evaluate_real(flags)

    from guava_aug.apps.evaluation import measure, report
    from guava_aug.apps.synthetic.bank import Bank
    from guava_aug.apps.synthetic.pairs import TRAINING_SEEDS
    from guava_aug.avatar.model import EMBEDDED, load_model
    from guava_aug.batch.journal.run_record import machine, versions, write_record
    from guava_aug.cli.terminal import Terminal, speaking
    from guava_aug.runtime.device import choose_device
    from guava_aug.runtime.files import file_sha256
    from guava_aug.views.difficulty import check_difficulties

    seeds, frames = chosen_seeds(flags), measure.frame_numbers(flags.frames)
    on_sheet = check_sheet(flags, len(seeds))
    difficulties = check_difficulties(flags.difficulties)
    begun = time.monotonic()
    with speaking(flags.quiet, False) as progress:
        device = choose_device(flags.device)
        bank = Bank.load(flags.bank) if flags.bank else Bank.bare()
        if not flags.bank:
            log.warning("no --bank: the subjects are painted on the bare body, without clothes and hair")
        model = load_model(flags.model_path or EMBEDDED, device)
        measure.check_model_fits(model, bank)
        views = 1 + len(difficulties)
        subjects: list[PersonResult] = []
        shown = report.example_frames(frames, len(seeds))
        progress.start(len(seeds), views * len(seeds))
        try:
            for i, seed in enumerate(seeds):
                name = measure.person_name(seed)
                progress.video(name, views)
                person = measure.measure_person(
                    model, bank, seed, frames, difficulties, base_seed=flags.base_seed, variety=flags.variety,
                    examples_of=shown if i < max(report.SHEET_ROWS, on_sheet) else (),
                    on_frame=partial(_frame_done, progress, name, len(frames)),
                )  # fmt: skip
                subjects.append(person)
                ours = person.scores[measure.SELF]["ours"].person_psnr
                progress.finish_video(name, f"self {ours:.2f} dB on the person" if ours is not None else "measured")
        finally:
            progress.close()
    mean = report.mean_scores(subjects)
    target = flags.json or flags.output / "evaluation.json"
    content = report.to_json(
        subjects,
        versions=versions(),
        machine=machine(device),
        seconds=round(time.monotonic() - begun, 1),
        checkpoint={"path": model.source, "sha256": file_sha256(Path(model.source))},
        people_are="dressed" if flags.bank else "painted",
        bank=None if flags.bank is None else {"path": str(flags.bank), "sha256": file_sha256(flags.bank)},
        seeds=list(seeds),
        variety=flags.variety,
        held_out=not any(s in TRAINING_SEEDS for s in seeds),
        base_seed=flags.base_seed,
        frames=frames,
        image_size=model.config.image_size,
    )
    write_record(target, content)
    dressed = flags.bank is not None
    table = flags.output / "evaluation.md"
    title = f"{who(len(subjects), len(frames), dressed=dressed, variety=flags.variety)}; PSNR in dB"
    write_text(table, f"{title}\n\n{report.markdown_table(mean)}")
    examples = [e for p in subjects for e in p.examples]
    sheets = report.write_sheets(examples[: report.SHEET_ROWS * views], flags.output)
    if flags.sheet is not None:
        report.write_sheet(examples, flags.sheet, on_sheet)
        sheets.append(flags.sheet)
    console = Terminal(soft_wrap=True)
    console.print(scores_table(mean, title))
    if flags.variety == "standard":  # the floors are of those
        console.print(floors_table(report.floors(mean)))
    if not dressed:
        console.print(
            "These subjects are painted on the bare body, because no --bank was given. The README's figures are of\n"
            "dressed subjects and not comparable; `guava-aug evaluate --help` says how to get the bank."
        )  # fmt: skip
    for line in (f"figures:  {target}", f"table:    {table}", f"pictures: {', '.join(str(s) for s in sheets)}"):
        console.say(line)
    return OK


_SYNTHETIC = ("subjects", "seeds", "bank", "difficulties", "base_seed", "sheet", "sheet_subjects", "variety")
_REAL = (
    "personalize", "video_list", "source_frame", "steps", "source_camera", "session_frames", "recording",
    "fit_cameras", "body_fit",
)  # fmt: skip


def check_kind(flags: EvaluateFlags) -> None:
    """Raise UsageError when flags of synthetic subjects and of --real are mixed."""
    given = {f.name for f in fields(flags) if getattr(flags, f.name) != f.default}
    wrong = [name for name in (_REAL if flags.real is None else _SYNTHETIC) if name in given]
    if wrong:
        which = "is only for real people; give --real DIR" if flags.real is None else "is not for --real; leave it out"
        raise UsageError(f"--{wrong[0]} {which}")


def chosen_seeds(flags: EvaluateFlags) -> tuple[int, ...]:
    """Return the subjects to measure.

    Raises:
        UsageError: none, one twice, a negative seed, or more subjects than there are seeds.
    """
    from guava_aug.apps.synthetic.pairs import HELD_OUT

    seeds = flags.seeds or HELD_OUT[flags.variety]
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(f"--seeds {' '.join(map(str, seeds))}: expected different numbers, 0 or more")
    count = len(seeds) if flags.subjects is None else flags.subjects
    if not 1 <= count <= len(seeds):
        more = "" if flags.seeds else "; name others with --seeds"
        raise UsageError(f"--subjects is {count}; expected 1 to {len(seeds)}{more}")
    return tuple(seeds[:count])


def check_sheet(flags: EvaluateFlags, subjects: int) -> int:
    """Return how many subjects the sheet shows, 0 without one. Raises UsageError before anything is measured."""
    if flags.sheet is None:
        return 0
    if flags.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UsageError(f"--sheet {flags.sheet}: expected a name that ends in .jpg or .png")
    if flags.sheet_subjects < 1:
        raise UsageError(f"--sheet_subjects is {flags.sheet_subjects}; expected at least 1")
    return min(flags.sheet_subjects, subjects)


def who(subjects: int, frames: int, *, dressed: bool, variety: str = "standard") -> str:
    """Return what was measured, in words."""
    kind = "dressed (--bank)" if dressed else "painted on the bare body (no --bank)"
    each = f"{frames} {'frame' if frames == 1 else 'frames'} each"
    people = "" if variety == "standard" else f"{variety} "
    return f"{subjects} {people}{'subject' if subjects == 1 else 'subjects'} {kind}, {each}"


def write_text(path: Path, text: str) -> None:
    """Write a text file. Raises OutputError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def scores_table(mean: dict[str, dict[str, Scores]], title: str) -> Table:
    """Return a table with one row per view and method."""
    from rich.table import Table

    from guava_aug.apps.evaluation.report import TABLE, cell_text

    table = Table(title=title, title_justify="left")
    table.add_column("view")
    table.add_column("method")
    for name in TABLE.values():
        table.add_column(name, justify="right")
    for view, by_method in mean.items():
        for i, (method, scores) in enumerate(by_method.items()):
            cells = [cell_text(name, getattr(scores, name), digits=2) for name in TABLE]
            table.add_row("" if i else view, method, *cells, end_section=i == len(by_method) - 1)
    return table


def _frame_done(progress: Progress, name: str, frames: int, view: str) -> None:
    progress.frames(name, 1, frames)


def floors_table(floors: Sequence[Floor]) -> Table:
    """Return a table of required and measured scores."""
    from rich.table import Table

    table = Table(title="floors (ours, dB)", title_justify="left")
    for name in ("floor", "expected", "found", "met"):
        table.add_column(name, justify="right" if name in ("expected", "found") else "left")
    for f in floors:
        found = "-" if f.found is None else f"{f.found:.2f}"
        table.add_row(f.what, f">= {f.expected:g}", found, "yes" if f.met else "NO")
    return table
