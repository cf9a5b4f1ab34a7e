"""The tables of `guava-aug bench`, as text and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from guava_aug.apps.benchmark.costs import Cost, batch_costs, subprocess_costs
from guava_aug.apps.benchmark.lanes import Lane
from guava_aug.apps.benchmark.measure import START, Measured
from guava_aug.runtime import timing
from guava_aug.runtime.text import pluralize

SCHEMA = "guava-aug-bench/1"
GUESSED = "~"  # before every extrapolated number

PER_VIEW, PER_VIDEO, PER_PROCESS = "per view", "once per video", "once per process"
# stage -> (how often here; in subprocess mode all are once per view)
HOW_OFTEN = {
    START: PER_PROCESS, timing.MODEL_LOADING: PER_PROCESS, timing.DATA: PER_VIDEO, timing.SOURCE: PER_VIDEO,
    timing.GAUSSIAN_SETUP: PER_VIDEO, timing.PRECOMPUTE: PER_VIDEO,
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """A table as plain text: the first column reads left, the others right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: Sequence[str] = ()

    def plain(self) -> str:
        """Return the table in aligned columns, for files and pipes."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        put = lambda line: "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        rule = "  ".join("-" * width for width in widths)
        return "\n".join([self.title, "", put(self.columns), rule, *map(put, self.rows), *self.notes])


@dataclass(frozen=True)
class Costs:
    """Both modes, row by row the same numbers of views."""

    batch: list[Cost]
    subprocess: list[Cost]

    @staticmethod
    def of(m: Measured, group: int) -> Costs:
        """Return the costs that were measured; `group`: views in flight at once (`RunConfig.views_in_flight`)."""
        per_mode = {mode: [c for c in m.commands if c.mode == mode] for mode in ("batch", "subprocess")}
        batch = per_mode["batch"]
        loading = m.start + statistics.median(c.loading for c in batch)
        again = m.seconds(timing.DATA) + m.seconds(timing.PRECOMPUTE)
        children = per_mode["subprocess"]
        child_loading = m.start + statistics.median(c.loading / c.views for c in children)
        return Costs(
            batch_costs({c.views: c.seconds for c in batch}, loading, m.marginal, again, group),
            subprocess_costs({c.views: c.seconds for c in children}, child_loading),
        )


def stages_grid(m: Measured) -> Grid:
    """Return where the time of one video and one view goes."""
    rows = [(START, _seconds(m.start), PER_VIEW, PER_PROCESS)]
    for stage in m.stages:
        rows.append((stage.name, _seconds(stage.seconds), PER_VIEW, HOW_OFTEN.get(stage.name, PER_VIEW)))
    frame = 1000 * m.marginal / m.frames
    return Grid(
        f"Stages: one view of {pluralize(m.frames, 'frame')}, {m.size} x {m.size}, {m.gaussians:,} Gaussians",
        ("stage", "seconds", "subprocess mode", "batch mode"),
        rows,
        [
            f"One more view in batch mode: {m.marginal:.3f} s, {frame:.2f} ms a frame (from {min(m.warm)} and "
            f"{pluralize(max(m.warm), 'view')} in one process).",
            "Stages are main-thread time of a warm process, medians; encode wait is what encoding adds at the end.",
        ],
    )


def costs_grid(costs: Costs) -> Grid:
    """Return n parameter sets of one video, both modes, with and without loading."""
    rows = []
    for sub, batch in zip(costs.subprocess, costs.batch, strict=True):
        guessed = GUESSED if not (sub.measured and batch.measured) else ""
        cell = lambda cost, value: ("" if cost.measured else GUESSED) + f"{value:.1f}"
        rows.append(
            (
                str(sub.views),
                cell(sub, sub.seconds),
                cell(batch, batch.seconds),
                f"{guessed}{sub.seconds / batch.seconds:.1f}x",
                cell(sub, sub.without_loading),
                cell(batch, batch.without_loading),
                f"{guessed}{sub.without_loading / max(batch.without_loading, 1e-9):.1f}x",
            )
        )
    return Grid(
        "Parameter sets (views) of one video, seconds from the shell",
        ("N", "subprocess", "batch", "speed-up", "subprocess *", "batch *", "speed-up *"),
        rows,
        [
            f"{GUESSED} extrapolated from the measured rows and the cost of one more view; all others are measured.",
            "* without process start, imports and model loading.",
        ],
    )


def lanes_grid(lanes: Sequence[Lane], views: int) -> Grid:
    """Return how busy everything was while the chart was recorded."""
    rows = [
        (lane.name, f"{lane.busy_seconds:.2f}", f"{lane.busy_share:.0%}", f"{lane.mean_threads:.1f}", str(lane.most))
        for lane in lanes
    ]
    return Grid(
        f"Utilisation: {pluralize(views, 'view')} in a warm process (recorded, so a little slower than timed)",
        ("lane", "busy s", "busy", "mean at once", "most at once"),
        rows,
    )


def to_json(m: Measured, costs: Costs, lanes: Sequence[Lane], **about: Any) -> dict[str, Any]:
    """Return all figures as plain values; `about`: machine, versions, video, and what else belongs to the run."""
    both = zip(costs.subprocess, costs.batch, strict=True)
    return {
        "schema": SCHEMA,
        **about,
        "model": m.model,
        "gaussians": m.gaussians,
        "frames": m.frames,
        "size": m.size,
        "stages": [
            {"stage": START, "seconds": m.start, "subprocess": PER_VIEW, "batch": PER_PROCESS},
            *(
                {
                    "stage": s.name, "seconds": s.seconds, "subprocess": PER_VIEW,
                    "batch": HOW_OFTEN.get(s.name, PER_VIEW),
                }
                for s in m.stages
            ),
        ],
        "marginal_seconds": m.marginal,
        "marginal_ms_per_frame": 1000 * m.marginal / m.frames,
        "warm_seconds": {str(views): seconds for views, seconds in m.warm.items()},
        "commands": [asdict(c) for c in m.commands],
        "parameter_sets": [
            {
                "views": sub.views, "subprocess": asdict(sub), "batch": asdict(batch),
                "speedup": sub.seconds / batch.seconds,
                "speedup_without_loading": sub.without_loading / max(batch.without_loading, 1e-9),
                "extrapolated": not (sub.measured and batch.measured),
            }
            for sub, batch in both
        ],
        "utilisation": {"views": m.views_recorded, "lanes": [lane.to_json() for lane in lanes]},
        "peak_gpu_bytes": m.peak_gpu_bytes,
    }  # fmt: skip


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
