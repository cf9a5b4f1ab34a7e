"""manifest.parquet: one row per view, made from the journals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from . import timing
from .errors import OutputError
from .frame_rate import rate_text
from .history import History, ViewHistory, Worker
from .output.params_log import Entries, view_order
from .output.temporary import replacing
from .output.tree import manifest_path, sidecar_path, video_path

# Column of every stage's seconds; what all views of a video share is divided among them.
STAGE_COLUMNS = {
    timing.DATA: "seconds_data",
    timing.SOURCE: "seconds_source_inference",
    timing.GAUSSIAN_SETUP: "seconds_gaussian_setup",
    timing.PRECOMPUTE: "seconds_precompute",
    timing.RENDER: "seconds_render",
    timing.ENCODE_WAIT: "seconds_encode_wait",
}
ROWS_AT_A_TIME = 10_000  # so that its memory does not grow with the table
COLUMNS = {
    "video": "string", "view": "string", "difficulty": "string", "view_index": "int32",
    "seed": "int64", "yaw": "float64", "pitch": "float64", "zoom": "float64", "cameras": "string",
    "status": "string", "stage": "string", "frame": "int32", "error": "string", "failed_runs": "int32",
    "root": "string", "path": "string", "sidecar": "string",
    "frames": "int32", "fps": "float64", "frame_rate": "string", "width": "int32", "height": "int32", "bytes": "int64",
    **dict.fromkeys(STAGE_COLUMNS.values(), "float64"),
    "finished": "timestamp", "part": "string", "host": "string", "device": "string", "gpu": "string",
    "rasteriser": "string", "precision": "string", "versions": "string", "fingerprint": "string", "made_with": "string",
}  # fmt: skip


def write_manifest(root: Path, history: History, found: Entries) -> Path:
    """Writes the manifest of an output root in one step; gives its path.

    found: entries of parameter logs, for views that no journal knows.

    Raises:
        OutputError: it cannot be written; the one before is still there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64()}
    schema = pa.schema(
        [(name, kinds.get(kind) or pa.timestamp("ms", tz="UTC")) for name, kind in COLUMNS.items()],
    )
    path, all_rows = manifest_path(root), rows(root, history, found)
    try:
        with (  # an open file, for pyarrow takes a colon in a path for the scheme of a URI
            replacing(path) as temporary,
            open(temporary, "wb") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            writer.write_table(schema.empty_table())
            while piece := list(islice(all_rows, ROWS_AT_A_TIME)):
                writer.write_table(pa.Table.from_pylist(piece, schema=schema))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the disk and run again") from error
    return path


def rows(root: Path, history: History, found: Entries) -> Iterator[dict[str, Any]]:
    """The manifest's rows: videos by name, views by difficulty and number. Absent values are null."""
    views = {(video, label): view for video, label, view in history.items()}
    entries = {(video, label): entry for video, labels in found.items() for label, entry in labels.items()}
    versions: dict[str, str] = {}  # as text, by worker
    for video, label in sorted({*views, *entries}, key=lambda key: (key[0], view_order(key[1]))):
        row: dict[str, Any] = {"video": video, "view": label, **_of_label(label)}
        row.update(_of_entry(entries.get((video, label)) or {}))
        view = views.get((video, label))
        if view is not None:
            row.update(_of_history(history, view, versions))
            row["status"] = view.standing
        if row["status"] == "done":
            row["path"] = str(video_path("", label, video))
            row["sidecar"] = str(sidecar_path("", label, video))
        yield row


def _of_label(label: str) -> dict[str, Any]:
    _, difficulty, number = view_order(label)
    return {"difficulty": difficulty, "view_index": number}


def _of_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """What the parameter log of an earlier version or of the original says of a view."""
    known = {key: entry.get(key) for key in ("seed", "yaw", "pitch", "zoom", "frames", "error")}
    return {
        **known,
        "seconds_render": entry.get("render_time"),
        "status": "failed" if entry.get("status") == "failed" else "done",
    }


def _of_history(history: History, view: ViewHistory, versions: dict[str, str]) -> dict[str, Any]:
    """What the journals say of a view: of its file when there is one, else of its newest failure."""
    failed = view.standing == "failed"
    line = view.failed if failed else view.made if view.standing == "done" else None
    line = line or view.told
    if line is None:
        return {"failed_runs": view.failed_runs, "error": None}
    fields, worker = line.fields, history.workers.get(line.worker) or Worker(line.worker)
    machine = worker.used.get("machine") or {}
    if worker.name not in versions:
        versions[worker.name] = json.dumps(worker.header.get("versions") or {}, sort_keys=True)
    row = {key: fields.get(key) for key in ("seed", "yaw", "pitch", "zoom", "frames", "fps", "bytes", "fingerprint")}
    row |= {key: fields.get(key) if failed else None for key in ("stage", "frame", "error")}
    row["frame_rate"] = fields.get("frame_rate") or _rate_text(fields.get("fps"))
    row["width"], row["height"] = fields.get("size") or (None, None)
    stages = {timing.RENDER: fields.get("render_time"), **(fields.get("stages") or {})}
    row |= {column: stages.get(stage) for stage, column in STAGE_COLUMNS.items()}
    made_with = fields.get("made_with")
    return row | {
        "failed_runs": view.failed_runs,
        "root": None if worker.root in (None, history.root) else str(worker.root),
        "finished": datetime.fromtimestamp(line.key[0], timezone.utc),
        "part": worker.part,
        "host": worker.header.get("host"),
        "device": machine.get("device"),
        "gpu": machine.get("gpu"),
        "rasteriser": worker.used.get("rasteriser"),
        "precision": worker.used.get("precision"),
        "versions": versions[worker.name],
        "made_with": None if made_with is None else json.dumps(made_with, sort_keys=True),
    }


def _rate_text(fps: Any) -> str | None:
    """The exact rate of a view whose journal has it as a number only."""
    try:
        return rate_text(fps)
    except (ValueError, TypeError):
        return None
