"""The whole way, MP4s on disk: `python benchmarks/end_to_end.py [--views 1 11] [--shell 100] [--json FILE]`.

T(N)     one video with N views in a warm process; one more view is (T(last) - T(first)) / (last - first)
shell    `guava-aug run` with so many views of one video, everything from the start of the process

`--chart FILE.png` draws what was busy when with the most views.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import setting
from guava_aug.apps.benchmark.chart import draw_chart
from guava_aug.apps.benchmark.lanes import lanes_of
from guava_aug.apps.benchmark.machine import describe_machine, in_words
from guava_aug.apps.benchmark.measure import WarmEngine, run_command
from guava_aug.batch.config import RunConfig
from guava_aug.output.video import CRF, PRESET


def main() -> None:
    parser = setting.flags(__doc__, repeats=3)
    setting.model_flags(parser)
    setting.video_flags(parser)
    parser.add_argument("--views", type=int, nargs="+", default=[1, 11])
    parser.add_argument("--shell", type=int, nargs="+", default=[], help="numbers of views to run as commands")
    parser.add_argument("--preset", default=PRESET)
    parser.add_argument("--crf", type=int, default=CRF)
    parser.add_argument("--chart", type=Path)
    args = parser.parse_args()
    setting.speak()
    root, names = setting.video_root(args)
    device = setting.device(args)

    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as scratch:
        config = RunConfig(
            root, Path(scratch) / "warm", tuple(names), ("medium",), model_path=Path(setting.model_path(args)),
            guava_root=args.guava_root, device=device, preset=args.preset, crf=args.crf,
        )  # fmt: skip
        engine = WarmEngine(config)
        engine.video(1)
        rows: list[dict[str, Any]] = []
        for views in sorted(set(args.views)):
            runs = [engine.video(views) for _ in range(args.repeats)]
            row: dict[str, Any] = {"what": "T(N)", "views": views, "s": statistics.median(s for s, _ in runs)}
            for stage in runs[0][1]:
                seconds = [r.seconds for _, stages in runs for r in stages if r.name == stage.name]
                row[stage.name] = statistics.median(seconds)
            rows.append(row)
        more = rows[-1]["views"] - rows[0]["views"]
        marginal = (rows[-1]["s"] - rows[0]["s"]) / more if more else None
        lanes = lanes_of(engine.recorded(max(args.views)))
        about = engine.describe()
        engine.close()
        for views in args.shell:
            command = run_command(replace(config, output_root=Path(scratch) / f"shell_{views}"), views)
            row = {"what": "shell", "views": views, "s": command.seconds, "model loading": command.loading}
            rows.append(row)

    if args.chart:
        machine = describe_machine(args.device)
        title = f"guava-aug: {max(args.views)} views of {about['frames']} frames, {about['gaussians']:,} Gaussians"
        draw_chart(lanes, title, in_words(machine), args.chart)
    stages = [name for row in rows for name in row if name not in ("what", "views", "s")]
    notes = [f"{lane.name}: busy {lane.busy_share:.0%}, {lane.mean_threads:.1f} at once" for lane in lanes]
    if marginal is not None:
        per_frame = 1000 * marginal / about["frames"]
        notes.insert(0, f"one more view: {marginal:.3f} s, {per_frame:.2f} ms a frame; with {max(args.views)} views:")
    title = f"one video of {about['frames']} frames, {about['gaussians']} Gaussians, {args.preset}, crf {args.crf}"
    setting.report(
        args, title + "; seconds", ["what", "views", "s", *dict.fromkeys(stages)], rows, notes,
        marginal_s=marginal, lanes=[lane.to_json() for lane in lanes], **about,
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
