"""What the programs in this folder share: their flags, the model and video they measure, and how they report."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guava_aug.apps.benchmark.clips import clip_of_length
from guava_aug.apps.benchmark.machine import describe_machine, in_words
from guava_aug.apps.benchmark.report import Grid
from guava_aug.apps.synthetic import demo_root
from guava_aug.avatar import StyleUNet
from guava_aug.avatar.checkpoint import bare_modules
from guava_aug.avatar.config import model_location
from guava_aug.avatar.model import (
    EMBEDDED,
    REFINER_NOISE_SEED,
    GuavaModel,
    load_model,
    open_model_files,
    refiner_noise,
)
from guava_aug.batch.journal.run_record import versions
from guava_aug.errors import AssetError, GuavaAugError, InputError
from guava_aug.runtime.cpus import keep_freed_memory
from guava_aug.runtime.text import pluralize
from guava_aug.tracked import TrackedVideo, list_videos

FRAMES = 137  # of the video that the original's figures were recorded with
_scratch = ExitStack()  # cut or repeated videos, until the program ends


def guarded(main: Callable[[], None]) -> None:
    """Runs a program; what the package refuses becomes one line and exit code 2."""
    try:
        main()
    except GuavaAugError as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)


def flags(doc: str | None, *, repeats: int | None = 7) -> argparse.ArgumentParser:
    """A parser with the flags of every program: --device, --json, and --repeats unless `repeats` is None."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=_device, default="cpu", help="torch device: cpu, cuda")
    if repeats is not None:
        parser.add_argument("--repeats", type=count, default=repeats, help="timed calls, of which medians are taken")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def count(text: str) -> int:
    """A number of 1 or more, for `add_argument(type=)`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number of 1 or more")
    return int(text)


def _device(text: str) -> str:
    try:
        asked = torch.device(text)
        if asked.type not in ("cpu", "cuda"):
            raise RuntimeError
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no torch device; expected cpu or cuda") from None
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked.type == "cuda" and (asked.index or 0) >= there:
        found = f"{pluralize(there, 'GPU')} here" if there else "torch finds no CUDA GPU here"
        raise argparse.ArgumentTypeError(f"{text}: {found}; expected " + ("cuda or cpu" if there else "cpu"))
    return text


def model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_path", help="a GUAVA model, or `embedded`; default: random weights of official size")
    parser.add_argument("--guava_root", type=Path, help="as for `guava-aug run`")


def video_flags(parser: argparse.ArgumentParser, frames: int = FRAMES) -> None:
    parser.add_argument("--tracked_root", type=Path, help="default: the bundled clips")
    parser.add_argument("--video", help="default: the first below --tracked_root")
    parser.add_argument("--frames", type=count, default=frames, help="the video is cut or repeated to this length")


def device(args: argparse.Namespace) -> str:
    """`--device` as a run's configuration wants it."""
    return "cuda:0" if args.device == "cuda" else args.device


def model_path(args: argparse.Namespace) -> str:
    """The model to measure; the one of official size is made if it is not there."""
    from official_size import official_size_file

    if args.model_path and not model_location(args.model_path).exists():
        raise AssetError(f"--model_path {args.model_path} does not exist; expected a GUAVA model, or `{EMBEDDED}`")
    return args.model_path or str(official_size_file())


def open_model(args: argparse.Namespace) -> GuavaModel:
    keep_freed_memory()
    return load_model(model_path(args), args.device, guava_root=args.guava_root)


def plain_refiner(args: argparse.Namespace, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Features [T, C, H, W] to RGB by the bare module in one precision, its weights fresh from the file."""
    checkpoint, config = open_model_files(model_location(model_path(args)), guava_root=args.guava_root)
    with bare_modules():
        refiner = StyleUNet(config.refiner)
    refiner.load_state_dict(checkpoint.refiner, strict=True, assign=True)
    refiner.to(args.device, dtype).eval().requires_grad_(False)
    noise = [n.to(dtype) for n in refiner_noise(refiner, REFINER_NOISE_SEED, args.device)]
    return lambda features: torch.sigmoid(refiner(features.to(dtype), noise))


def video_root(args: argparse.Namespace, copies: int = 1) -> tuple[Path, list[str]]:
    """A tracked root that holds the video `copies` times in the wanted length, and the names."""
    root = args.tracked_root or demo_root()
    name = args.video or next(iter(list_videos(root)), None)
    if name is None:
        raise InputError(f"--tracked_root {root} holds no tracked video")
    if copies == 1 and TrackedVideo.open(root, name).num_frames == args.frames:
        return root, [name]
    out = Path(_scratch.enter_context(tempfile.TemporaryDirectory(prefix="guava-aug-bench-")))
    names = [name] if copies == 1 else [f"{name}_{i:03d}" for i in range(copies)]
    for new in names:
        clip_of_length(root, name, args.frames, out, new)
    return out, names


def open_video(args: argparse.Namespace) -> TrackedVideo:
    root, names = video_root(args)
    return TrackedVideo.open(root, names[0])


def report(args: argparse.Namespace, title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]],
           notes: Sequence[str] = (), **more: Any) -> None:  # fmt: skip
    """Prints the columns of the rows with the machine, and writes all of them to --json."""
    machine, software = describe_machine(args.device), versions()
    cells = [tuple(_cell(row.get(column)) for column in columns) for row in rows]
    print(f"{in_words(machine)}; " + ", ".join(f"{k} {v}" for k, v in software.items()))
    print(Grid(title, tuple(columns), cells, tuple(notes)).plain())
    if args.json:
        arguments = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k != "json"}
        content = {"machine": machine, "versions": software, "arguments": arguments, "rows": list(rows), **more}
        args.json.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    _scratch.close()


def speak() -> None:
    """Shows the package's warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:.1e}" if 0 < size < 1e-3 else f"{value:.3f}" if size < 10 else f"{value:.1f}"
    return str(value)
