"""What an evaluation on real people says: tables for people, plain values for programs, pictures side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from guava_aug.apps.evaluation.likeness import AFTER, BEFORE, KEPT_BACK, TRUTH, Likeness
from guava_aug.apps.evaluation.person_scores import GET_FLIP, flip_program
from guava_aug.apps.evaluation.stability import GET_CVVDP, cvvdp_program
from guava_aug.output.contact_sheet import Block, contact_sheet

SCHEMA = "guava-aug real evaluation 1"
_SHEET_CELL = 512  # pixels
# column -> title and digits
_OWN = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 3), "flip": ("FLIP", 3), "iou": ("IoU", 3), "ncc": ("luminance r", 3)}
_OTHER = {
    "psnr": ("PSNR", 2), "psnr_matched": ("PSNR matched", 2), "psnr_background": ("PSNR matched on background", 2),
    "ssim": ("SSIM", 3), "flip": ("FLIP", 3), "iou": ("IoU", 3), "missed": ("missed", 3), "extra": ("extra", 3),
    "ncc": ("luminance r", 3),
}  # fmt: skip
_MOTION = {
    "face_px": ("face, px", 1), "body_px": ("arms, px", 1), "hands_px": ("hands, px", 1),
    "face_found": ("faces found again", 2), "hands_found": ("hands found again", 2),
    "hands_share": ("hands found", 2), "warp_error": ("warp error", 2),
    "warp_error_of_video": ("of the video", 2), "cvvdp_jod": ("cvvdp, JOD", 2),
}  # fmt: skip
_HOW_TO_GET = {"flip": GET_FLIP, "cvvdp_jod": GET_CVVDP}

DEFINITIONS = {
    "psnr": "dB on the true mask, peak 1; the render over the mean colour of the true surroundings, so that what "
    "is not covered costs",
    "psnr_matched": "the same after an affine change of the render's colours (3 x 4), one for all frames of a camera, "
    "fitted where mask and render overlap",
    "psnr_background": "the same, but the change of colours brings mean and covariance of the source camera's "
    "background to those of this camera's",
    "ssim": "11 x 11 Gaussian window, over windows whose middle is on the true mask; both pictures over that colour; "
    "of other cameras after matching colours",
    "flip": "mean FLIP on the true mask, 67 pixels per degree, less is better; pictures as for ssim",
    "iou": "intersection over union of true mask and alpha above 0.5",
    "missed": "area of the mask that is not covered, as a share of the mask",
    "extra": "covered area outside the mask, as a share of the mask",
    "ncc": "correlation of luminance where mask and render overlap",
    "flat": "dB that one mean colour per frame would have on the true mask",
    "frames": "frames that the row is a mean of",
    "head": "a disc around the head of the tracked body (or the pack's own)",
    "left hand, right hand": "a square around wrist and fingers of the tracked body",
    "before": "the avatar as the network makes it from the source frame, in the tracked poses",
    "before, fitted pose": "the same avatar in the poses, cameras and shape that the fit found: what "
    "alignment alone gives",
    "after": "the fitted avatar in those poses; a frame kept back corrects its own pose, its picture touches "
    "nothing else",
    "face_px, body_px, hands_px": "mean distance in px of 1024 of landmarks that our nets find in the render from "
    "those that they find in the true picture; body: shoulders, elbows, wrists; a part counts where both have it",
    "face_found, hands_found": "of those found in the true pictures, the share that is found in the renders",
    "hands_share": "hands that are found, of two a frame",
    "warp_error": "root mean square change of the body's points from one frame to the next, in levels of 255: the "
    "render brought along the known motion of the body",
    "warp_error_of_video": "the same of the true pictures along the same motion; less is not better as such, above the "
    "video's it is flicker",
    "cvvdp_jod": "ColorVideoVDP of the stretch over the plain colour, 10 is no visible difference",
}


def to_json(results: Sequence[Likeness], **about: Any) -> dict[str, Any]:
    """Return the report as plain values; `about` (machine, versions, checkpoint, ...) comes first."""
    return {
        "schema": SCHEMA,
        **about,
        "missing": {key: how for key, how in _HOW_TO_GET.items() if not _is_there(key)},
        "definitions": DEFINITIONS,
        "videos": [
            {
                "name": r.name, "kind": r.kind, "personalize": r.personalize, "fitted_to": list(r.fitted_to),
                "frames": r.frames, **r.facts,
                "rows": [{**asdict(row), "scores": _plain(row.scores)} for row in r.rows],
                "motion": {state: _plain(figures) for state, figures in r.motion.items()},
                "notes": list(r.notes),
            }
            for r in results
        ],
    }  # fmt: skip


def markdown(results: Sequence[Likeness]) -> str:
    """Return the report as a page: notes and tables of each video."""
    parts = ["# Evaluation on real people\n"]
    for r in results:
        parts.append(f"## {r.name} ({r.kind}, --personalize {r.personalize})\n")
        parts += [f"- {note}" for note in r.notes]
        if "used" in r.facts:
            parts.append(
                f"- fit: {r.facts['steps']} steps, {r.facts['seconds_of_fit']} s; as the fit itself judges on grey: "
                f"{r.facts['grey_before']:.2f} dB before, {r.facts['grey_after']:.2f} after"
                + ("" if r.facts["used"] else "; no better, so that a run would not use it")
            )
        parts.append("")
        for frames_of in dict.fromkeys(row.frames_of for row in r.rows):
            parts.append(f"Frames {frames_of}:\n\n{rows_table(r, frames_of)}")
        if r.motion:
            parts.append(f"Landmarks and steadiness:\n\n{motion_table(r)}")
    for key, how in _HOW_TO_GET.items():
        if not _is_there(key) and (key == "flip" or any(r.kind == "self view" for r in results)):
            parts.append(f"{(_OWN | _MOTION)[key][0]} {how}")
    parts.append("\nWhat the figures are:\n\n" + "\n".join(f"- {k}: {v}" for k, v in DEFINITIONS.items()) + "\n")
    return "\n".join(parts)


def rows_table(result: Likeness, frames_of: str = KEPT_BACK) -> str:
    """Return a table: a row per part or camera and state."""
    columns = _OWN if result.kind == "self view" else _OTHER
    lines = [["of", "avatar", *(title for title, _ in columns.values()), "frames"]]
    for where in dict.fromkeys(row.where for row in result.rows):
        for row in result.rows:
            if row.where == where and row.frames_of == frames_of:
                cells = [_cell(row.scores.get(key), key, digits) for key, (_, digits) in columns.items()]
                lines.append([where, row.state, *cells, f"{row.scores.get('frames', 0):.0f}"])
    return _table(lines, 2)


def motion_table(result: Likeness) -> str:
    """Return a table of landmarks and steadiness: a row per state (and camera), and one of the true pictures."""
    lines = [["pictures"]]
    columns = {
        k: v for k, v in _MOTION.items()
        if result.kind == "self view" or any(k in figures for figures in result.motion.values())
    }  # fmt: skip
    lines[0][1:] = [title for title, _ in columns.values()]
    for state, found in result.motion.items():
        optional = lambda key, state=state: None if state.endswith(TRUTH) else key
        lines.append([state, *(_cell(found.get(k), optional(k), digits) for k, (_, digits) in columns.items())])
    return _table(lines, 1)


def summary(results: Sequence[Likeness]) -> list[str]:
    """Return a line per video and camera: before and after, frames kept back."""
    lines = []
    for r in results:
        by = {(row.where, row.state): row.scores for row in r.rows if row.frames_of == KEPT_BACK}
        key = "psnr" if r.kind == "self view" else "psnr_matched"
        for where in dict.fromkeys(row.where for row in r.rows):
            if where.startswith(("head", "left hand", "right hand")):
                continue
            states = [s for s in (BEFORE, AFTER) if (where, s) in by]
            values = [f"{by[where, s][key]:.2f} dB, IoU {by[where, s]['iou']:.3f}" for s in states]
            place = "" if where == "person" else f", camera {where}"
            lines.append(f"{r.name}{place}: {' -> '.join(values)}")
    return lines


def write_strips(results: Sequence[Likeness], folder: Path) -> list[Path]:
    """Write the pictures side by side, a PNG per video or camera with a row per moment, and return the files.

    Raises:
        OutputError: a file cannot be written.
    """
    written = []
    for r in results:
        for sheet in dict.fromkeys(s.sheet for s in r.strips):
            strips = [s for s in r.strips if s.sheet == sheet]
            path = folder / f"{sheet}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [(s.label, s.pictures) for s in strips]
            contact_sheet(
                [Block(f"{sheet}, --personalize {r.personalize}", strips[0].columns, rows)], path, _SHEET_CELL
            )
            written.append(path)
    return written


def _is_there(key: str) -> bool:
    return (flip_program if key == "flip" else cvvdp_program)() is not None


def _cell(value: float | None, key: str | None, digits: int) -> str:
    if value is None and key in _HOW_TO_GET and not _is_there(key):
        return f"({_HOW_TO_GET[key].split(':')[0]})"
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _table(lines: Sequence[Sequence[str]], names: int) -> str:
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], f"|{'---|' * names}{'--:|' * (len(lines[0]) - names)}", *rows[1:]]) + "\n"


def _plain(figures: dict[str, float]) -> dict[str, float | None]:
    return {key: round(value, 4) if math.isfinite(value) else None for key, value in figures.items()}
