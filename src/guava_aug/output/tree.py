"""The output tree: paths of the results of a view."""

from __future__ import annotations

import os
from pathlib import Path

from guava_aug.errors import UsageError
from guava_aug.runtime.atomic import remove_stale_files

VIEW_FOLDER = "render_fixed_viewpoint"
LOG_NAME = "augmentation_params"
RUN_FOLDER = ".guava-aug"  # of journals and records, below the output root


def view_root(root: str | os.PathLike[str], view_label: str, name: str) -> Path:
    """Return {root}/{view_label}/{name}: the original's output directory of a view."""
    return Path(f"{os.fspath(root) or '.'}/{_part(view_label)}/{_part(name)}")


def view_dir(root: str | os.PathLike[str], view_label: str, name: str) -> Path:
    """Return the folder of all files of one view of a video.

    It is {root}/{view_label}/{name}/render_fixed_viewpoint/{name}.
    """
    return Path(_view_dir(root, view_label, name))


def video_path(root: str | os.PathLike[str], view_label: str, name: str) -> Path:
    """Return the path of the MP4 of one view."""
    return Path(f"{_view_dir(root, view_label, name)}/{name}_fixed_viewpoint_video.mp4")


def sidecar_path(root: str | os.PathLike[str], view_label: str, name: str) -> Path:
    """Return the path of the sidecar of one view: camera, time axis and provenance of its MP4."""
    return Path(f"{_view_dir(root, view_label, name)}/{name}_fixed_viewpoint_video.json")


def relative_paths(view_label: str, name: str) -> tuple[str, str]:
    """Return MP4 and sidecar of one view, as text, relative to the output root; fast, for tables of 100,000 views."""
    start = f"{_part(view_label)}/{_part(name)}/{VIEW_FOLDER}/{name}/{name}_fixed_viewpoint_video"
    return f"{start}.mp4", f"{start}.json"


def png_dir(root: str | os.PathLike[str], view_label: str, name: str) -> Path:
    """Return the folder of one view's pictures, 00000.png and so on."""
    return view_dir(root, view_label, name) / "render"


def params_log_path(root: str | os.PathLike[str], part_id: int | str | None = None) -> Path:
    """Return the path of the parameter log of a run, or of one part of a job array."""
    if part_id is None:
        return Path(root) / f"{LOG_NAME}.json"
    return Path(root) / f"{LOG_NAME}_part_{_part(str(part_id))}.json"


def manifest_path(root: str | os.PathLike[str]) -> Path:
    """Return the path of the table of all views."""
    return Path(root) / "manifest.parquet"


def _view_dir(root: str | os.PathLike[str], view_label: str, name: str) -> str:
    """Return `view_dir` as text; fast, as planning calls it 100,000 times."""
    return f"{os.fspath(root) or '.'}/{_part(view_label)}/{_part(name)}/{VIEW_FOLDER}/{name}"


def _part(text: str) -> str:
    """Return `text` if it is the name of a single folder: a name from tracked data must not lead out of the tree."""
    if not text or text in (".", "..") or "/" in text or "\\" in text or "\0" in text:
        raise UsageError(f"output tree: expected a plain folder name, found {text!r}; rename the video")
    return text


def remove_unfinished_files(root: str | os.PathLike[str], view_label: str, name: str) -> None:
    """Remove what dead processes left of one view: temporary files beside its MP4 and among its PNGs."""
    remove_stale_files(view_dir(root, view_label, name))
    remove_stale_files(png_dir(root, view_label, name))
