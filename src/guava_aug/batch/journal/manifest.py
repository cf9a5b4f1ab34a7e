"""manifest.parquet: one row per view, made from the journals."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from guava_aug.batch.journal.history import History, ViewHistory, WorkerHistory
from guava_aug.batch.journal.journal import JournalLine
from guava_aug.batch.journal.lines import unpacked
from guava_aug.batch.journal.params_log import Entries
from guava_aug.errors import OutputError, UsageError
from guava_aug.output.tree import manifest_path, relative_paths
from guava_aug.runtime import timing
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.frame_rate import rate_text
from guava_aug.runtime.plain_json import is_number
from guava_aug.views.camera_facts import expanded_facts
from guava_aug.views.view import recorded_params, view_order

# Column of every stage's seconds; what all views of a video share is divided among them.
STAGE_COLUMNS = {
    timing.DATA: "seconds_data",
    timing.SOURCE: "seconds_source_inference",
    timing.GAUSSIAN_SETUP: "seconds_gaussian_setup",
    timing.PRECOMPUTE: "seconds_precompute",
    timing.RENDER: "seconds_render",
    timing.ENCODE_WAIT: "seconds_encode_wait",
}
ROWS_AT_A_TIME = 2_500  # so that its memory does not grow with the table
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


KINDS = tuple(COLUMNS.values())


def write_manifest(root: Path, history: History, found: Entries) -> Path:
    """Writes the manifest of an output root in one step; gives its path.

    found: entries of parameter logs, for views that no journal knows.

    Raises:
        OutputError: it cannot be written; the one before is still there.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to load, and not always needed
    import pyarrow.parquet as pq  # noqa: PLC0415 - slow to load, and not always needed

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
                    _column(name, values, kind, type_)
                    for name, values, kind, type_ in zip(COLUMNS, zip(*piece, strict=True), KINDS, types, strict=True)
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


def _column(name: str, values: Sequence[Any], kind: str, type_: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - slow to load, and not always needed

    if name in _WHOLE and set(map(type, values)) <= {bytes, type(None)}:
        return _matrices(name, values, type_)
    if name in _WHOLE:
        values = [_expanded(name, value) if type(value) is bytes else value for value in values]
    try:
        return pa.array(values, type_)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array([_FITTING[kind](value) for value in values], type_)


# Of matrices that a journal has in part, as packed numbers: all numbers, and the places of those in the journal.
_WHOLE: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "K": ((0.0,) * 8 + (1.0,), (0, 4, 2, 5)),  # fx, fy, cx, cy
    "viewmat": ((0.0,) * 15 + (1.0,), tuple(range(12))),
}


def _expanded(name: str, packed: bytes) -> list[float]:
    whole, places = _WHOLE[name]
    found = list(whole)
    for place, value in zip(places, struct.unpack(f"{len(places)}d", packed), strict=True):
        found[place] = value
    return found


def _matrices(name: str, values: Sequence[bytes | None], type_: Any) -> Any:
    """`_expanded` of a whole column, as an array of lists."""
    import numpy as np  # noqa: PLC0415 - slow to load, and not always needed
    import pyarrow as pa  # noqa: PLC0415 - slow to load, and not always needed

    whole, places = _WHOLE[name]
    there = [value is not None for value in values]
    packed = np.frombuffer(b"".join([value for value in values if value is not None])).reshape(-1, len(places))
    full = np.tile(np.array(whole), (len(packed), 1))
    full[:, places] = packed
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(there, out=offsets[1:])
    offsets *= len(whole)
    ends = pa.array(offsets, mask=np.array([not one for one in there] + [False]))
    return pa.ListArray.from_arrays(ends, pa.array(full.ravel())).cast(type_)


def rows(root: Path, history: History, found: Entries) -> Iterator[tuple[Any, ...]]:
    """The manifest's rows, values in the order of `COLUMNS`: videos by name, views by difficulty and number.

    Matrices are lists of numbers, or bytes, see `_WHOLE`.
    """
    workers = {name: _of_worker(history, worker) for name, worker in history.workers.items()}
    in_order = {name: tuple(worker.values()) for name, worker in workers.items()}
    text_of = _Texts()
    for video in sorted(history.views.keys() | found.keys()):
        views, entries = history.views.get(video, {}), found.get(video, {})
        for label in sorted(views.keys() | entries.keys(), key=view_order):
            view = views.get(label)
            if view is not None and view.made is not None and view.status == "done":
                row = _of_made(video, label, view, view.made, in_order[view.made.worker], text_of)
                if row is not None:
                    yield row
                    continue
            yield _row(video, label, view, entries.get(label) or {}, workers)


def _row(
    video: str, label: str, view: ViewHistory | None, entry: dict[str, Any], workers: dict[str, dict[str, Any]]
) -> tuple[Any, ...]:
    """The row of any view. entry: what the logs say of it."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    _, difficulty, number = view_order(label)
    row.update(video=video, view=label, difficulty=difficulty, view_index=number)
    moving = False
    if view is None or not (view.told or view.made or view.failed):
        row.update(_of_entry(entry))
    if view is not None:
        row["status"] = standing = view.status
        moving = _of_history(row, view, standing, workers)
    if row["status"] == "done":
        with contextlib.suppress(UsageError):  # a log of others may name what is no folder
            row["path"], row["sidecar"] = relative_paths(label, video)
            if moving:
                row["cameras"] = row["sidecar"]
    return tuple(row.values())


class _Texts:
    """JSON of what many views have in common, made once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}  # by identity

    def of(self, value: Any) -> str:
        """Return the JSON text with sorted keys."""
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = value, json.dumps(value, sort_keys=True)
        return known[1]


_PICKED = (
    "seed", "yaw", "pitch", "zoom", "camera", "frames", "fps", "frame_rate", "size", "bytes", "stages", "render_time",
    "fingerprint", "made_with", "trajectory", "sampler",
)  # fmt: skip
_FORM = ("azimuth", -1, "elevation", -1, "K", 4, "viewmat", 12)  # of a camera that stands still, see `lines.Packer`
_NUMBERS = {int, float}


def _of_made(
    video: str, label: str, view: ViewHistory, line: JournalLine, worker: tuple[Any, ...], text_of: _Texts
) -> tuple[Any, ...] | None:
    """`_row` of a view that is done and whose line is as usual, which most are, and this is quick; else None."""
    (
        seed, yaw, pitch, zoom, camera, frames, fps, frame_rate, size, length, stages, render_time, fingerprint,
        made_with, trajectory, sampler,
    ) = line.pick(_PICKED)  # fmt: skip
    if (
        type(seed) is not int
        or not {type(yaw), type(pitch), type(zoom)} <= _NUMBERS
        or sampler is not None
        or (camera is not None and (type(camera) is not tuple or camera[0] != _FORM))
    ):
        return None
    _, difficulty, number = view_order(label)
    azimuth = elevation = K = viewmat = None
    if camera is not None:
        data = camera[1]
        azimuth, elevation = struct.unpack_from("2d", data)
        K, viewmat = data[16:48], data[48:]
    width, height = size or (None, None)
    seconds = dict.fromkeys(STAGE_COLUMNS)
    seconds[timing.RENDER] = render_time
    for stage, spent in unpacked(stages or {}).items():
        if stage in seconds:
            seconds[stage] = spent
    path, sidecar = relative_paths(label, video)
    root, part, host, device, gpu, rasteriser, precision, versions = worker
    return (
        video, label, difficulty, number,
        seed, yaw, pitch, zoom,
        trajectory or "fixed", f'{{"pitch": {pitch!r}, "seed": {seed!r}, "yaw": {yaw!r}, "zoom": {zoom!r}}}',
        azimuth, elevation,
        K, viewmat, None,
        "done", None, None, None, view.failed_runs,
        root, path, sidecar,
        frames, fps, frame_rate or _rate_text(fps), width, height, length,
        *seconds.values(),
        int(line.key[0] * 1000), part, host, device, gpu,
        rasteriser, precision, versions, fingerprint, None if made_with is None else text_of.of(made_with),
    )  # fmt: skip


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


@functools.lru_cache(maxsize=256)
def _rate_text(fps: Any) -> str | None:
    """Return the exact rate of a view whose journal has it as a number only."""
    try:
        return rate_text(fps)
    except (ValueError, TypeError):
        return None


_AS_TOLD = ("seed", "yaw", "pitch", "zoom", "frames", "fps", "bytes", "fingerprint")
