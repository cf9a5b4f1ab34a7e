"""manifest.parquet: one row per view, made from the journals."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from guava_aug.batch.journal.history import History, ViewHistory, WorkerHistory
from guava_aug.batch.journal.params_log import Entries, view_order
from guava_aug.errors import OutputError, UsageError
from guava_aug.output.tree import manifest_path, relative_paths
from guava_aug.runtime import timing
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.frame_rate import rate_text
from guava_aug.runtime.plain_json import is_number
from guava_aug.views.angles import expanded_facts
from guava_aug.views.view import recorded_params

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
    "seed": "int64", "yaw": "float64", "pitch": "float64", "zoom": "float64",
    "sampler": "string", "params": "string", "azimuth": "float64", "elevation": "float64",
    "K": "list", "viewmat": "list", "cameras": "string",
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
    kinds["list"] = pa.list_(pa.float64())
    schema = pa.schema(
        [(name, kinds.get(kind) or pa.timestamp("ms", tz="UTC")) for name, kind in COLUMNS.items()],
    )
    path, all_rows = manifest_path(root), rows(root, history, found)
    types = [schema.field(name).type for name in COLUMNS]
    try:
        with (  # an open file, for pyarrow takes a colon in a path for the scheme of a URI
            atomic_write(path) as temporary,
            open(temporary, "wb") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            writer.write_table(schema.empty_table())
            while piece := list(islice(all_rows, ROWS_AT_A_TIME)):
                columns = [
                    _column(values, kind, type_)
                    for values, kind, type_ in zip(zip(*piece, strict=True), COLUMNS.values(), types, strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the disk and run again") from error
    return path


def _integer(bits: int) -> Callable[[Any], int | None]:
    limit = 1 << (bits - 1)
    return lambda value: value if type(value) is int and -limit <= value < limit else None


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _text(value: Any) -> str | None:
    """The text, with what is no Unicode escaped, as names on a disk may be."""
    if type(value) is not str:
        return None
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


# Of every kind of column: the value that fits into it, else null. Logs of others say what they like.
_FITTING: dict[str, Callable[[Any], Any]] = {
    "string": _text, "int32": _integer(32), "int64": _integer(64), "float64": _number, "timestamp": _integer(64),
    "list": lambda value: [float(v) for v in value] if type(value) is list and all(map(is_number, value)) else None,
}  # fmt: skip


def _column(values: Sequence[Any], kind: str, type_: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, type_)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array([_FITTING[kind](value) for value in values], type_)


def rows(root: Path, history: History, found: Entries) -> Iterator[tuple[Any, ...]]:
    """The manifest's rows, values in the order of `COLUMNS`: videos by name, views by difficulty and number."""
    workers = {name: _of_worker(history, worker) for name, worker in history.workers.items()}
    for video in sorted(history.views.keys() | found.keys()):
        views, entries = history.views.get(video, {}), found.get(video, {})
        for label in sorted(views.keys() | entries.keys(), key=view_order):
            row = dict.fromkeys(COLUMNS)
            _, difficulty, number = view_order(label)
            row.update(video=video, view=label, difficulty=difficulty, view_index=number)
            view, moving = views.get(label), False
            if view is None or not (view.told or view.made or view.failed):
                row.update(_of_entry(entries.get(label) or {}))
            if view is not None:
                row["status"] = standing = view.standing
                moving = _of_history(row, view, standing, workers)
            if row["status"] == "done":
                with contextlib.suppress(UsageError):  # a log of others may name what is no folder
                    row["path"], row["sidecar"] = relative_paths(label, video)
                    if moving:
                        row["cameras"] = row["sidecar"]
            yield tuple(row.values())


def _of_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """What the parameter log of an earlier version or of the original says of a view."""
    known = {key: entry.get(key) for key in ("seed", "yaw", "pitch", "zoom", "frames", "error")}
    return {
        **known,
        **_of_camera(entry)[0],
        "seconds_render": entry.get("render_time"),
        "status": "failed" if entry.get("status") == "failed" else "done",
    }


def _of_worker(history: History, worker: WorkerHistory) -> dict[str, Any]:
    """What the views that a process made have in common."""
    machine = worker.used.get("machine") or {}
    return {
        "root": None if worker.root in (None, history.root) else str(worker.root),
        "part": worker.part,
        "host": worker.header.get("host"),
        "device": machine.get("device"),
        "gpu": machine.get("gpu"),
        "rasteriser": worker.used.get("rasteriser"),
        "precision": worker.used.get("precision"),
        "versions": json.dumps(worker.header.get("versions") or {}, sort_keys=True),
    }


def _of_camera(fields: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """Return sampler and parameters of a view with its camera where that stands still; and whether it moves."""
    sampler, params = recorded_params(fields)
    camera = fields.get("camera") or {}
    told = {"sampler": sampler, "params": json.dumps(params, sort_keys=True) if params else None}
    return {**told, **expanded_facts(camera)}, bool(camera.get("moving"))


def _of_history(row: dict[str, Any], view: ViewHistory, standing: str, workers: dict[str, dict[str, Any]]) -> bool:
    """Add what the journals say of a view: of its file when there is one, else of its newest failure.

    Return whether its camera moves.
    """
    failed = standing == "failed"
    row["failed_runs"] = view.failed_runs
    line = view.failed if failed else view.made if standing == "done" else None
    line = line or view.told
    if line is None:
        row["error"] = None
        return False
    fields = line.fields
    for key in _AS_TOLD:
        row[key] = fields.get(key)
    camera, moving = _of_camera(fields)
    row.update(camera)
    row["frame_rate"] = fields.get("frame_rate") or _rate_text(fields.get("fps"))
    if failed:
        row["stage"], row["frame"], row["error"] = fields.get("stage"), fields.get("frame"), fields.get("error")
    row["width"], row["height"] = fields.get("size") or (None, None)
    stages = {timing.RENDER: fields.get("render_time"), **fields.get("stages", {})}
    for stage, seconds in stages.items():
        if stage in STAGE_COLUMNS:
            row[STAGE_COLUMNS[stage]] = seconds
    made_with = fields.get("made_with")
    row["made_with"] = None if made_with is None else json.dumps(made_with, sort_keys=True)
    row["finished"] = int(line.key[0] * 1000)  # milliseconds since 1970
    row.update(workers[line.worker])
    return moving


def _rate_text(fps: Any) -> str | None:
    """Return the exact rate of a view whose journal has it as a number only."""
    try:
        return rate_text(fps)
    except (ValueError, TypeError):
        return None


_AS_TOLD = ("seed", "yaw", "pitch", "zoom", "frames", "fps", "bytes", "fingerprint")
