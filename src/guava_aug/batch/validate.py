"""What a run's flags mean before any video is looked at.

Refused values, the model to load, what decides the pixels, and whether the output can be written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from guava_aug.avatar.config import EMBEDDED, model_location
from guava_aug.batch.config import DEFAULT_MODEL_PATH, RunConfig
from guava_aug.batch.fingerprint import RenderSettings, cached_weights_digest
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.errors import AssetError, OutputError, UsageError
from guava_aug.output.sinks import PRESETS, check_sinks
from guava_aug.output.tree import RUN_FOLDER
from guava_aug.render.backends import BACKENDS, PRECISIONS
from guava_aug.runtime.atomic import remove_stale_files
from guava_aug.runtime.files import is_there, nearest_existing
from guava_aug.tracked.timemap import Timing, load_time_map

if TYPE_CHECKING:
    from guava_aug.avatar.model import GuavaModel


def check_flags(config: RunConfig) -> Mapping[str, Timing]:
    """Refuse values that would fail with every video; return what the time map says of them, by their names.

    Raises:
        UsageError, InputError: unknown background, rasteriser, preset or sink; no such picture; a bad time map.
        AssetError: `model_path` is given and not there.
    """
    if config.backend not in BACKENDS:
        raise UsageError(f"--backend is {config.backend!r}; expected one of {', '.join(BACKENDS)}")
    if config.precision not in PRECISIONS:
        raise UsageError(f"--precision is {config.precision!r}; expected one of {', '.join(PRECISIONS)}")
    if config.preset not in PRESETS:
        raise UsageError(f"--preset is {config.preset!r}; expected one of {', '.join(PRESETS)}")
    if config.background != "plate":
        from guava_aug.render.background import background_for  # noqa: PLC0415 - imports torch, which is slow

        background_for(None, config.background, 8)  # type: ignore[arg-type]  # only `plate` looks at the video
    check_sinks(config.all_sinks)
    model_source(config)
    return {} if config.time_map is None else load_time_map(config.time_map)


def model_source(config: RunConfig | TrackConfig) -> str:
    """Return the model to load: `model_path`, else assets/GUAVA (here, then below `guava_root`), else "embedded".

    Raises:
        AssetError: `model_path` is given and not there.
    """
    if config.model_path is not None:
        if str(config.model_path) != EMBEDDED and not is_there(config.model_path, AssetError):
            raise AssetError(
                f"--model_path {config.model_path} does not exist; expected a folder with config.yaml and "
                "checkpoints/, a .pt or a .safetensors file (left out, the embedded model is used)"
            )
        return str(config.model_path)
    places = [DEFAULT_MODEL_PATH] + ([config.guava_root / DEFAULT_MODEL_PATH] if config.guava_root else [])
    return next((str(place) for place in places if is_there(place, AssetError)), EMBEDDED)


def render_settings(config: RunConfig, model: GuavaModel | None = None) -> RenderSettings:
    """Return what of a run decides the pixels. Reads the model's files, unless their digest is known below the root.

    Args:
        config: of the run.
        model: a loaded model that is used instead of the configuration's.

    Raises:
        AssetError: there is no such model. InputError: the background picture cannot be read.
    """
    source = model_source(config) if model is None else model.source
    path = model_location(source)
    if model is not None and not path.exists():
        return RenderSettings.of(config, source)  # it was never a file
    return RenderSettings.of(config, cached_weights_digest(path, config.output_root))


def refuse_file_in_the_way(root: Path, flag: str) -> None:
    """Raise OutputError when a file stands where the folder of `flag`, such as --output_root, is to be made."""
    there = nearest_existing(root)
    if not os.path.isdir(there):
        raise OutputError(f"{flag} {root} cannot be made: {there} is a file; choose another folder")


def make_writable(root: Path, flag: str) -> None:
    """Make the folder of `flag`, and find out now rather than after an hour whether it can be written.

    Raises:
        OutputError: it cannot.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise OutputError(
            f"{flag} {root} cannot be written ({error.strerror or error}); choose another folder, or change its "
            "permissions"
        ) from error
    remove_stale_files(root)
    remove_stale_files(root / RUN_FOLDER)
