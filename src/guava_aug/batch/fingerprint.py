"""What decides the pixels of a view, as a few named values and one digest of them.

Named, so that a difference can be shown; a digest, so that it can be compared and searched for. In it: weights, way of
rendering, background, encoder settings, frame rate, camera, and what was read of the tracked video. Not in it, because
the pictures do not depend on it (or by float32 rounding only): batch sizes, device, rasteriser, number and order of
videos, views and shards, where files lie. Nor the precision of rendering: fp16 and fp32 differ by 0.11/255 at most,
`auto` is not the same on all machines of a cluster, and when fp16 is too narrow for some views, the run must be able to
go on with --precision fp32 beside those that are there. Which one it was is in the journal and the manifest.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guava_aug.avatar.config import find_checkpoint
from guava_aug.batch.config import RunConfig
from guava_aug.batch.options import options_of, pixel_options
from guava_aug.errors import AssetError, InputError
from guava_aug.output.tree import RUN_FOLDER
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.cpus import usable_cpus
from guava_aug.runtime.files import is_file, is_folder
from guava_aug.runtime.frame_rate import Rate
from guava_aug.runtime.plain_json import loads
from guava_aug.tracked.layout import IDENTITY, IMAGES, INFO, TRACKING, places

if TYPE_CHECKING:
    from guava_aug.output.metadata import Tag
    from guava_aug.tracked import TrackedVideo
    from guava_aug.views import View

# Counts up whenever the same inputs give other pictures (beyond rounding): a change of the networks' forward pass, the
# rasteriser's rules, the plate, the colours. Kept by hand: a digest of the source files would change with every
# comment and stop half-finished data sets at every update for nothing. The run's record has the package's version too.
RENDER_VERSION = 1
# The same of fitted avatars: counts up when the same inputs and preset give another one. In `made_with` only of views
# that were made with --personalize.
AVATAR_VERSION = 1
# In `made_with` only of a video some of whose frames were left out of the clean plate: their numbers, as "3,7-9".
# Videos without such frames keep their fingerprints, and views made before frames were left out count as done.
PLATE_WITHOUT = "plate_without"
_DIGITS = 32  # of hexadecimal: 128 bits
_BLOCK = 1 << 20  # bytes read at a time
_PIECE = 1 << 26  # bytes of a file that one thread digests; of a longer file, the digest is that of its pieces' digests
_IMAGES_READ = 8  # stored images whose bytes are looked at, spread evenly over the video
_MODEL_EXTRAS = ("config.yaml", "body.npz")  # read beside a checkpoint, and small
_MEMORY = Path(RUN_FOLDER) / "weights.json"  # below the output root


@dataclass(frozen=True, init=False)
class RenderSettings:
    """The part of the fingerprint that all views of a run share."""

    weights: str  # digest of the model's files
    background: str  # the mode; of a picture, its digest
    crf: int
    preset: str
    render: int
    # Declared options (`batch.options`) that have another value than in version 0.1.0. At that value nothing is told of
    # them, so that views made before there was a choice are as they would be made now.
    changed: tuple[tuple[str, Any], ...] = field(repr=False)

    def __init__(
        self, weights: str, background: str, crf: int, preset: str, render: int = RENDER_VERSION, **options: Any
    ) -> None:
        """Take what is told always, and the options of `pixel_options` by name; those left out are as in 0.1.0."""
        before = pixel_options(RunConfig)
        if unknown := set(options) - set(before):
            raise TypeError(f"no option that decides pixels: {', '.join(sorted(unknown))}")
        changed = tuple((name, options[name]) for name in before if options.get(name, before[name]) != before[name])
        values = (weights, background, crf, preset, render, changed)
        for f, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, f.name, value)

    @classmethod
    def of(cls, config: RunConfig, weights: str) -> RenderSettings:
        """Return the look of a run's configuration. Raises InputError when the background picture cannot be read."""
        background = config.background.lower()
        picture = Path(config.background)
        if background not in ("plate", "original", "black") and not background.startswith("#"):
            try:
                background = "picture " + _digest_of_files([picture])
            except OSError as error:
                raise InputError(f"--background {picture} cannot be read ({error.strerror or error})") from error
        options = {d.name: d.plain(getattr(config, d.name)) for d in options_of(RunConfig) if d.decides_pixels}
        return cls(weights, background, config.crf, config.preset, **options)

    def made_with(self, fps: Rate, input_digest: str) -> dict[str, Any]:
        """Return everything but the camera: this, the frame rate and the digest of the tracked video."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "changed"}
        if "personalize" in dict(self.changed):
            said["avatar_version"] = AVATAR_VERSION
        return {**said, **dict(self.changed), "fps": float(fps), "input": input_digest}


def fingerprint(view: View, made_with: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits of a view's sampler and parameters and of `RenderSettings.made_with`."""
    return _of_values({**made_with, **view.record()})


def is_consistent(tag: Tag) -> bool:
    """Return whether what a video says of itself has the fingerprint that it says too; also if it says none."""
    if tag.made_with is None or tag.fingerprint is None:
        return True
    values = {**tag.made_with, **tag.camera}
    moving: tuple[dict[str, str], ...] = (
        {},
        {"trajectory": "circle"},
        {"trajectory": "zoom"},
    )  # which tags of 0.1.0 do not tell
    return any(tag.fingerprint == _of_values({**values, **trajectory}) for trajectory in moving)


def _of_values(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def cached_weights_digest(model_path: Path, output_root: Path) -> str:
    """Return `weights_digest`, remembered below an output root by the checkpoint's path, size and date.

    So an official checkpoint of more than a gigabyte is read for it once per output root and not by every worker.

    Raises:
        AssetError: there is no such model, or it cannot be read.
    """
    file = _checkpoint(model_path)
    memory = output_root / _MEMORY
    try:
        stat = file.stat()
        key = f"{file}|{stat.st_size}|{stat.st_mtime_ns}|{_PIECE}"
    except OSError as error:
        raise _unreadable(file, error) from error
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):
        said = loads(memory.read_text(encoding="utf-8"))
        known = {k: v for k, v in dict(said).items() if isinstance(v, str) and re.fullmatch(r"[0-9a-f]{32}", v)}
    if key not in known:
        known[key] = _content(file, key)
        if memory.parent.is_dir():
            with contextlib.suppress(OSError), atomic_write(memory) as temporary:
                temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return _with_extras(file, known[key])


def weights_digest(model_path: Path) -> str:
    """Return 32 hexadecimal digits of a model's files: the checkpoint, and beside a `.pt` its config.yaml and body.npz.

    model_path: a folder or a checkpoint. The official checkpoint and its converted form are different files and have
    different digests.

    Raises:
        AssetError: there is no such model, or it cannot be read.
    """
    file = _checkpoint(model_path)
    return _with_extras(file, _digest_of_model(file, [file]))


@functools.lru_cache(maxsize=8)
def _content(file: Path, key: str) -> str:
    return _digest_of_model(file, [file])


def _checkpoint(model_path: Path) -> Path:
    return Path(os.path.realpath(find_checkpoint(model_path) if is_folder(model_path, AssetError) else model_path))


def _with_extras(file: Path, content: str) -> str:
    if file.suffix == ".safetensors":
        return content
    extras = [folder / name for folder in (file.parent, file.parent.parent) for name in _MODEL_EXTRAS]
    extras = [path for path in extras if is_file(path, AssetError)]
    return _digest_of_text(content + _digest_of_model(file, extras)) if extras else content


def _digest_of_model(file: Path, parts: list[Path]) -> str:
    try:
        return _digest_of_files(parts)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> AssetError:
    return AssetError(f"{file}: the model cannot be read ({error.strerror or error}); see --model_path")


def input_signature(tracked_root: Path, name: str) -> str | None:
    """Return 16 hexadecimal digits of the sizes and dates of a tracked video's files; None: some are missing."""
    for folder in (*places(tracked_root, name), tracked_root):
        found = []
        try:
            for file in (INFO, TRACKING, IDENTITY, IMAGES):
                stat = os.stat(f"{folder}/{file}")
                found.append((stat.st_size, stat.st_mtime_ns))
        except (FileNotFoundError, NotADirectoryError):
            if found:
                return None
            continue
        except (OSError, ValueError):  # it may be there: the folders that come after it are not asked
            return None
        return _digest_of_text(repr(found))[:16]
    return None


def input_digest(video: TrackedVideo) -> str:
    """Return 32 hexadecimal digits of what a tracked video holds, however it is stored.

    All parameters of all frames as they are used (float32), the names and order of the frames, the stored length of
    every image and mask, and the bytes of 8 of them, spread evenly. Not in it: paths, dates, frame rate, source frames.
    """
    digest = hashlib.sha256()
    digest.update("\0".join(video.frame_keys).encode("utf-8", "surrogateescape"))
    for record in (video.identity, video.motion):
        for f in fields(record):
            digest.update(getattr(record, f.name).contiguous().numpy().tobytes())
    digest.update(video.viewmats.contiguous().numpy().tobytes())
    if video.K is not None:  # absent in version 0.1.0: a video without it keeps its digest
        digest.update(video.K.float().contiguous().numpy().tobytes())
    if video.known is not None:  # likewise
        digest.update(video.known.tobytes())
    for data in video.image_samples(_IMAGES_READ):
        digest.update(data)
    return digest.hexdigest()[:_DIGITS]


def _digest_of_files(paths: list[Path]) -> str:
    """Return SHA-256 of the contents of files. All cores read a long file."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(min(usable_cpus(), 16)) as threads:
        for path in paths:
            if (length := path.stat().st_size) > _PIECE:
                starts = range(0, length, _PIECE)
                digest.update(b"".join(threads.map(_digest_of_piece, [path] * len(starts), starts)))
            else:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def _digest_of_piece(path: Path, start: int) -> bytes:
    digest, left = hashlib.sha256(), _PIECE
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while left and (data := file.read(min(left, _BLOCK))):
            digest.update(data)
            left -= len(data)
    return digest.digest()


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
