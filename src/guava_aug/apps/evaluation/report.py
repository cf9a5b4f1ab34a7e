"""What an evaluation says: means over subjects, floors, the JSON file, pictures side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guava_aug.apps.evaluation.measure import METHODS, METRICS, SELF, SHOWN, Example, PersonResult, Scores
from guava_aug.apps.evaluation.metrics import K1, K2, PSNR_CEILING, SIGMA, WINDOW
from guava_aug.output.contact_sheet import Block, contact_sheet

SCHEMA = "guava-aug evaluation 1"
SHEET_ROWS = 4  # of pictures, per view
SHEET_CELL = 180  # pixels, of the sheet of subjects
SHEET_BYTES = 245_000  # of the sheet of subjects: small enough to live in a repository
TABLE = {
    "psnr": "PSNR", "ssim": "SSIM", "person_psnr": "person PSNR", "person_ssim": "person SSIM",
    "person_delta_e": "person dE", "face_psnr": "face PSNR", "hands_psnr": "hands PSNR",
}  # fmt: skip
PERSON_FLOORS = {SELF: 22.0, "medium": 20.0}  # dB, ours, person only
FULL_FLOOR = 28.0  # dB, ours, whole picture
GAINS = {"input": 4.0, "mesh": 1.5}  # dB, person only, ours over a baseline on new views

DEFINITIONS = {
    "psnr": f"dB over all pixels and channels, peak 1, at most {PSNR_CEILING:g}; person over the true background",
    "ssim": f"Gaussian window {WINDOW}, sigma {SIGMA}, K1 {K1}, K2 {K2}, mean of R, G, B; whole windows only",
    "person_psnr": "as psnr, over the pixels with truth alpha > 0.5 alone",
    "person_ssim": "as ssim, over the windows whose middle has truth alpha > 0.5",
    "person_delta_e": "mean CIE 1976 colour difference over the pixels with truth alpha > 0.5; less is better",
    "face_psnr": "as psnr, over a square around the vertices that expressions move, side 1.15 of their extent",
    "hands_psnr": "as psnr, over squares around wrist and outer finger joints, side 1.7 of their extent; mean of both",
    "mean": "of frames, then of subjects; a part less than half in the picture is left out",
    "ours": "the refined picture, as `guava-aug run` makes it",
    "raw": "the first three rendered channels, before the refiner",
    "mesh": "the source picture projected on the posed body, unseen places filled from the mirrored side and around",
    "input": "the tracked camera's picture of the same moment, untouched; missing in self, where it is the truth",
    "self": "the tracked camera over the motion, from the avatar of frame 0",
}


@dataclass(frozen=True)
class Floor:
    """One thing the results must reach."""

    what: str
    expected: float
    found: float | None

    @property
    def met(self) -> bool:
        """Return whether the measured value reaches the expected one."""
        return self.found is not None and self.found >= self.expected


def mean_scores(subjects: Sequence[PersonResult]) -> dict[str, dict[str, Scores]]:
    """Return view -> method -> mean over the subjects of what was measurable on them."""
    views = list(subjects[0].scores) if subjects else []
    return {
        view: {
            method: _mean([p.scores[view][method] for p in subjects])
            for method in METHODS
            if all(method in p.scores[view] for p in subjects)
        }
        for view in views
    }


def floors(mean: dict[str, dict[str, Scores]]) -> list[Floor]:
    """Return what the project promises of its embedded model, as far as these views tell."""
    found = []
    for view, by_method in mean.items():
        ours = by_method["ours"]
        if view in PERSON_FLOORS:
            found.append(Floor(f"{view}: person PSNR", PERSON_FLOORS[view], ours.person_psnr))
        found.append(Floor(f"{view}: whole picture PSNR", FULL_FLOOR, ours.psnr))
        for baseline, gain in GAINS.items():
            if view != SELF:
                found.append(Floor(f"{view}: person PSNR over {baseline}", gain, _gain(ours, by_method[baseline])))
    return found


def to_json(subjects: Sequence[PersonResult], **about: Any) -> dict[str, Any]:
    """Return the report as plain values; `about` (machine, versions, checkpoint, ...) comes first."""
    mean = mean_scores(subjects)
    return {
        "schema": SCHEMA,
        **about,
        "definitions": DEFINITIONS,
        "mean": _plain(mean),
        "floors": [{**asdict(f), "met": f.met} for f in floors(mean)],
        "people": [
            {
                "seed": p.seed, "name": p.name, "outfit": p.outfit, "hair": p.hair,
                "views": {d: {k: getattr(v, k) for k in ("yaw", "pitch", "zoom", "seed")} for d, v in p.views.items()},
                "scores": _plain(p.scores),
            }
            for p in subjects
        ],
    }  # fmt: skip


def write_sheets(examples: Iterable[Example], folder: Path) -> list[Path]:
    """Return one PNG per view: truth, ours, mesh and input side by side, a row per example."""
    by_view: dict[str, list[Example]] = {}
    for e in examples:
        by_view.setdefault(e.view, []).append(e)
    written = []
    for view, found in by_view.items():
        path = folder / f"{view}.png"
        rows = [(f"{e.person}\nframe {e.frame}", [e.pictures[m] for m in SHOWN]) for e in found]
        columns = (*SHOWN[:-1], "source frame" if view == SELF else "input frame")
        contact_sheet([Block(view, columns, rows)], path)
        written.append(path)
    return written


def write_sheet(examples: Iterable[Example], path: Path, subjects: int) -> None:
    """Write one small picture of the first `subjects` subjects: truth, ours, mesh and input, a row per view.

    Of each person one moment is shown. In the row of the source's own camera the input is the source frame.
    """
    chosen: dict[str, list[Example]] = {}
    for e in examples:
        if e.person in chosen or len(chosen) < subjects:
            chosen.setdefault(e.person, []).append(e)
    blocks = []
    for person, found in chosen.items():
        moments = sorted({e.frame for e in found})
        moment = moments[len(moments) // 2]
        label = lambda view: f"{view}\n(input: the\nsource)" if view == SELF else view
        rows = [(label(e.view), [e.pictures[m] for m in SHOWN]) for e in found if e.frame == moment]
        blocks.append(Block(f"{person}, frame {moment}", SHOWN, rows))
    contact_sheet(blocks, path, SHEET_CELL, abreast=2, max_bytes=SHEET_BYTES)


def markdown_table(mean: dict[str, dict[str, Scores]]) -> str:
    """Return the scores as a table for a page: a row per view and method."""
    lines = [f"| view | method | {' | '.join(TABLE.values())} |", f"|---|---|{'--:|' * len(TABLE)}"]
    for view, by_method in mean.items():
        for method, scores in by_method.items():
            cells = [cell_text(name, getattr(scores, name)) for name in TABLE]
            lines.append(f"| {view} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell_text(metric: str, value: float | None, digits: int = 1) -> str:
    """Return a score as tables show it; SSIM has three digits always."""
    return "-" if value is None else f"{value:.3f}" if "ssim" in metric else f"{value:.{digits}f}"


def example_frames(frames: Sequence[int], subjects: int) -> list[int]:
    """Return the frames of one person whose pictures are kept: `SHEET_ROWS` rows over all subjects, evenly spaced.

    One for each person at least, the middle one.
    """
    rows = min(len(frames), max(1, SHEET_ROWS // subjects))
    return [frames[(2 * k + 1) * len(frames) // (2 * rows)] for k in range(rows)]


def _gain(ours: Scores, baseline: Scores) -> float | None:
    if ours.person_psnr is None or baseline.person_psnr is None:
        return None
    return ours.person_psnr - baseline.person_psnr


def _mean(scores: list[Scores]) -> Scores:
    of = lambda name: [v for s in scores if (v := getattr(s, name)) is not None]
    return Scores(**{n: sum(of(n)) / len(of(n)) if of(n) else None for n in METRICS})


def _plain(scores: dict[str, dict[str, Scores]]) -> dict[str, dict[str, dict[str, float | None]]]:
    rounded = lambda v: None if v is None else round(v, 4)
    return {
        view: {method: {k: rounded(v) for k, v in asdict(s).items()} for method, s in by.items()}
        for view, by in scores.items()
    }
