"""What encoding costs, alone and many views at once: `python benchmarks/encode.py [--json FILE]`.

Frames of the bundled clip (or --tracked_root) through the writer that runs use: convert, encode, decode back, rename.
One thread per view; a run has as many views as --writers.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import setting
from guava_aug.output import VideoWriter
from guava_aug.output.video import CRF, PRESET
from guava_aug.runtime import timing

CHUNK = 32  # frames handed over at a time, as a run on a GPU does


def write_all(frames: np.ndarray, writers: int, preset: str, crf: int, folder: Path) -> tuple[float, float]:
    """(wall seconds of all files, thread-seconds of encoding): the frames to so many files at once."""
    height, width = frames.shape[1:3]
    begun = time.perf_counter()
    with timing.recording() as busy:
        files = [VideoWriter(folder / f"{i}.mp4", width, height, 30, crf=crf, preset=preset) for i in range(writers)]
        for start in range(0, len(frames), CHUNK):
            for file in files:
                file.write(frames[start : start + CHUNK])
        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(VideoWriter.close, files))
    encoding = sum(i.end - i.start for i in busy if i.work == timing.ENCODE)
    return time.perf_counter() - begun, encoding


def main() -> None:
    parser = setting.flags(__doc__, repeats=3)
    setting.video_flags(parser)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 4, 10, 16])
    parser.add_argument("--presets", nargs="+", default=[PRESET], help="x264 presets, ultrafast to veryslow")
    parser.add_argument("--crf", type=int, default=CRF)
    parser.add_argument("--size", type=int, default=512, help="pixels, square")
    args = parser.parse_args()
    setting.speak()
    video = setting.open_video(args)
    chunks = video.chunks(CHUNK, args.size)
    pictures = [(chunk.images * 255).byte().permute(0, 2, 3, 1).numpy() for chunk in chunks]
    frames = np.ascontiguousarray(np.concatenate(pictures))

    rows = []
    with tempfile.TemporaryDirectory(prefix="guava-aug-bench-") as scratch:
        for preset in args.presets:
            for writers in args.writers:
                runs = [write_all(frames, writers, preset, args.crf, Path(scratch)) for _ in range(args.repeats)]
                seconds = statistics.median(wall for wall, _ in runs)
                threads = statistics.median(encoding for _, encoding in runs)
                rows.append(
                    {
                        "preset": preset,
                        "writers": writers,
                        "seconds": seconds,
                        "seconds_a_view": seconds / writers,
                        "ms_a_frame": 1000 * seconds / writers / len(frames),
                        "thread_ms_a_frame": 1000 * threads / writers / len(frames),
                        "frames_a_second": writers * len(frames) / seconds,
                        "mb_a_view": (Path(scratch) / "0.mp4").stat().st_size / 1e6,
                    }
                )
    setting.report(
        args, f"{len(frames)} frames of {args.size} x {args.size}, crf {args.crf}", list(rows[0]), rows,
        ["seconds: from the first frame to the last file decoded back and renamed; thread ms: encoding alone"],
    )  # fmt: skip


if __name__ == "__main__":
    setting.guarded(main)
