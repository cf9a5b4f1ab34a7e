"""Files with random damage: `python tests/batch/fuzz_files.py [--count 3000] [--seed 1]`.

Small files of fourteen kinds are changed at random and read as the commands read them. Whatever they hold, reading ends
within seconds, with a result or with an error of ours, in less than a gigabyte of memory. What does not is printed,
with the seed that makes the same file again, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import logging
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes import FakeModel, write_clip
from guava_aug import augment
from guava_aug.batch.config import read_config
from guava_aug.batch.journal.history import History
from guava_aug.batch.journal.params_log import read_params
from guava_aug.batch.journal.run_log import merge
from guava_aug.batch.retry import failed_runs
from guava_aug.batch.status import run_status
from guava_aug.errors import GuavaAugError
from guava_aug.output.metadata import tag_of_file
from guava_aug.output.verify import verify_view
from guava_aug.tracked import TrackedVideo, load_time_map
from guava_aug.tracked.images import _BadImage, decode_image

LONGEST = 10.0  # seconds for one file, on a busy machine
MOST_MEMORY = 1 << 30  # bytes
TOKENS = (
    b"NaN", b"Infinity", b"1e999", b"-1", b"null", b"[]", b"{}", b"true", b'"', b"\\ud800", b"../x", b"\x00" * 64,
    b"9" * 5000, b"[" * 100_000, b"\xff\xff\xff\xff", b"\xff" * 8, b"\x7f\xff\xff\xff", b"-", b",", b"\n", b"\x80\x04.",
)  # fmt: skip


def changed(data: bytes, rng: random.Random) -> bytes:
    """The data with one to eight random changes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at, length = rng.randrange(len(out) + 1), rng.choice((1, 2, 4, 16, 256))
        what = rng.randrange(8)
        if what == 0:
            del out[at:]
        elif what == 1:
            del out[at : at + length]
        elif what == 2:
            out[at:at] = out[at : at + length] * rng.choice((1, 2, 50))
        elif what == 3:
            out[at:at] = rng.choice(TOKENS)
        elif what == 4:
            token = rng.choice(TOKENS)
            out[at : at + len(token)] = token
        elif what == 5:
            out[at : at + length] = rng.randbytes(length)
        elif at < len(out):
            out[at] = out[at] ^ (1 << rng.randrange(8)) if what == 6 else rng.randrange(256)
    return bytes(out)


class Kind:
    """A file, and what reads it. The file is put back before the next one is changed."""

    def __init__(self, path: Path, read: Callable[[], object]) -> None:
        self.path, self.read, self.whole = path, read, path.read_bytes()

    def try_one(self, seed: str) -> str:
        """Read the file with the changes of a seed; return how it ended. Raises what is not an error of ours."""
        self.path.write_bytes(changed(self.whole, random.Random(seed)))
        try:
            self.read()
            return "read"
        except (GuavaAugError, _BadImage) as error:  # the second is an InputError to all but `decode_image`
            str(error)
            return "refused"
        finally:
            self.path.write_bytes(self.whole)


def kinds(folder: Path) -> dict[str, Kind]:
    """The files, made below a folder."""
    tracked, out = folder / "tracked", folder / "out"
    clip = write_clip(tracked, "clip", frames=3, fps=25.0)
    (clip / "frame_index_map.json").write_text('{"frames": {"frame_000000": 0, "frame_000001": 1, "frame_000002": 2}}')
    result = augment(tracked, out, difficulties=["easy"], views_per_difficulty=3, model=FakeModel())
    assert result.ok
    (journal,) = (out / ".guava-aug" / "journal").iterdir()
    view = result.views[0]
    assert view.path is not None
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    stored = {"a.jpg": cv2.imencode(".jpg", picture)[1].tobytes(), "a.png": cv2.imencode(".png", picture)[1].tobytes()}
    saved = io.BytesIO()
    torch.save(torch.from_numpy(picture).permute(2, 0, 1), saved)
    stored["a.pt"] = saved.getvalue()
    stored["times.csv"] = b"video,fps,source_frames\nclip,30000/1001,0 1 2\nother,25,\n"
    for name, data in stored.items():
        (folder / name).write_bytes(data)

    def track() -> None:
        video = TrackedVideo.open(tracked, "clip")
        for frame in range(video.num_frames):
            video.read_frame(frame)

    def journals() -> None:
        history = History(out)
        run_status(history)
        failed_runs(history)
        merge([out])

    def made() -> None:
        tag_of_file(view.path)
        verify_view(out, view.label, view.video, frames=3, fps=25.0, digest=None, has_sidecar=True, has_pngs=False)

    def image(name: str) -> Callable[[], object]:
        return lambda: decode_image((folder / name).read_bytes(), 3, strict=True)

    return {
        "videos_info.json": Kind(clip / "videos_info.json", track),
        "frame_index_map.json": Kind(clip / "frame_index_map.json", track),
        "tracking": Kind(clip / "optim_tracking_ehm.pkl", track),
        "identity": Kind(clip / "id_share_params.pkl", track),
        "LMDB": Kind(clip / "img_lmdb" / "data.mdb", track),
        "JPEG": Kind(folder / "a.jpg", image("a.jpg")),
        "PNG": Kind(folder / "a.png", image("a.png")),
        "saved tensor": Kind(folder / "a.pt", image("a.pt")),
        "time map": Kind(folder / "times.csv", lambda: load_time_map(folder / "times.csv")),
        "journal": Kind(journal, journals),
        "parameter log": Kind(result.params_log, lambda: (read_params(result.params_log), merge([out]))),
        "MP4": Kind(view.path, made),
        "sidecar": Kind(view.path.with_suffix(".json"), made),
        "configuration": Kind(
            out / ".guava-aug" / "run_config.yaml", lambda: read_config(out / ".guava-aug" / "run_config.yaml")
        ),
    }


def main() -> int:
    """0 when nothing went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one kind")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    bad, ended, slowest = 0, Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        found = kinds(Path(folder))
        names = [args.only] if args.only else list(found)
        for number in range(args.count):
            name = names[number % len(names)]
            seed = f"{args.seed} {name} {number}"
            faulthandler.dump_traceback_later(10 * LONGEST, exit=True)  # it hangs
            begun = time.monotonic()
            try:
                ended[f"{name}: {found[name].try_one(seed)}"] += 1
            except BaseException:
                bad += 1
                print(f"seed {seed!r}: {traceback.format_exc(limit=-4)}", flush=True)
            spent = time.monotonic() - begun
            slowest = max(slowest, spent)
            if spent > LONGEST:
                bad += 1
                print(f"seed {seed!r}: {spent:.1f} s", flush=True)
        faulthandler.cancel_dump_traceback_later()
    memory = _most_memory()
    print(f"{args.count} files, {bad} bad, slowest {slowest:.1f} s, at most {memory / 1e6:.0f} MB; {dict(ended)}")
    return int(bad > 0 or memory > MOST_MEMORY)


def _most_memory() -> int:
    """Return the most memory of this process so far, bytes. Not ru_maxrss on Linux: it begins with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
