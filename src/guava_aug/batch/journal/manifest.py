"""manifest.parquet: one row per view, made from the journals."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from guava_aug.batch.journal.history import History, ViewHistory, WorkerHistory
from guava_aug.batch.journal.lines import open_texts
from guava_aug.batch.journal.params_log import Entries
from guava_aug.errors import OutputError, UsageError
from guava_aug.output.metadata import expanded_facts
from guava_aug.output.tree import manifest_path, relative_paths
from guava_aug.runtime import timing
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.files import file_sha256
from guava_aug.runtime.frame_rate import rate_text
from guava_aug.runtime.plain_json import is_number, loads
from guava_aug.runtime.version import __version__
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
    path, views, tables = manifest_path(root), _in_order(history, found), _Tables(history, schema)
    try:
        with (  # an open file, for pyarrow takes a colon in a path for the scheme of a URI
            atomic_write(path) as temporary,
            open(temporary, "wb") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            writer.write_table(schema.empty_table())
            while piece := list(islice(views, ROWS_AT_A_TIME)):
                writer.write_table(tables.of(piece))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); check the disk and run again") from error
    return path


def note_sources(root: Path, lengths: Mapping[str, int]) -> None:
    """Note beside the manifest that it is made from the first bytes of these journals, and from nothing else."""
    with contextlib.suppress(OSError), atomic_write(root / _SOURCES) as temporary:
        temporary.write_text(json.dumps(_sources(root, lengths)) + "\n", encoding="utf-8")


def is_made_from(root: Path, lengths: Mapping[str, int]) -> bool:
    """Return whether a manifest is there that is made, in this form, from these bytes of journals and nothing else."""
    try:
        return bool(loads((root / _SOURCES).read_text(encoding="utf-8")) == _sources(root, lengths))
    except (OSError, ValueError):
        return False


def _sources(root: Path, lengths: Mapping[str, int]) -> dict[str, Any]:
    return {
        "journals": dict(lengths), "manifest": file_sha256(manifest_path(root)),
        "columns": list(COLUMNS), "version": __version__,
    }  # fmt: skip


_SOURCES = Path(".guava-aug") / "manifest.json"
_Known = tuple[str, str, ViewHistory | None, dict[str, Any]]  # video, view, what journals and logs say of it


def _in_order(history: History, found: Entries) -> Iterator[_Known]:
    """All views: videos by name, views by difficulty and number."""
    for video in sorted(history.views.keys() | found.keys()):
        views, entries = history.views.get(video, {}), found.get(video, {})
        for label in sorted(views.keys() | entries.keys(), key=view_order):
            yield video, label, views.get(label), entries.get(label) or {}


class _Tables:
    """Makes tables of views: of most of them column by column, which is quick, of the others row by row."""

    def __init__(self, history: History, schema: Any) -> None:
        self._schema = schema
        self._workers = {name: _of_worker(history, worker) for name, worker in history.workers.items()}
        self._texts: dict[int, tuple[Any, str]] = {}  # JSON of what many views have in common, by identity

    def of(self, views: Sequence[_Known]) -> Any:
        """Return the table of some views, in their order."""
        import pyarrow as pa  # noqa: PLC0415 - slow to load, and not always needed

        usual = [place for place, (_, _, view, _) in enumerate(views) if view is not None and _is_usual(view)]
        columns = self._of_usual([views[place] for place in usual]) if usual else None
        if columns is None:
            usual, tables = [], []
        else:
            arrays = [
                columns[name] if name in _OF_NUMBERS else pa.array(columns[name], type_)
                for name, type_ in zip(COLUMNS, self._schema.types, strict=True)
            ]
            tables = [pa.Table.from_arrays(arrays, schema=self._schema)]
        if others := sorted(set(range(len(views))).difference(usual)):
            rows = [_row(*views[place], self._workers) for place in others]
            arrays = [
                _column(values, kind, type_)
                for values, kind, type_ in zip(zip(*rows, strict=True), KINDS, self._schema.types, strict=True)
            ]
            tables.append(pa.Table.from_arrays(arrays, schema=self._schema))
        places = [*usual, *others]
        return pa.concat_tables(tables).take(pa.array(sorted(range(len(places)), key=places.__getitem__)))

    def _of_usual(self, views: Sequence[_Known]) -> dict[str, Any] | None:
        """Return the columns of views that `_is_usual`; None: a camera or its times are odd."""
        videos, labels, histories, _ = zip(*views, strict=True)
        lines = [view.made for view in histories]
        (
            seeds, yaws, pitches, zooms, cameras, frames, fps, rates, sizes, lengths, stages, times, fingerprints,
            made_with,
        ) = zip(*(line.pick(_PICKED) for line in lines), strict=True)  # fmt: skip
        numbers = _numbers([line.shape.file for line in lines], cameras, stages, times)
        if numbers is None:
            return None
        count = len(views)
        columns: dict[str, Any] = dict.fromkeys(COLUMNS, (None,) * count)
        columns.update(numbers)
        _, columns["difficulty"], columns["view_index"] = zip(*map(view_order, labels), strict=True)
        columns["params"] = [
            f'{{"pitch": {pitch!r}, "seed": {seed}, "yaw": {yaw!r}, "zoom": {zoom!r}}}'
            for seed, yaw, pitch, zoom in zip(seeds, yaws, pitches, zooms, strict=True)
        ]
        columns["path"], columns["sidecar"] = zip(*map(relative_paths, labels, videos), strict=True)
        columns["width"], columns["height"] = zip(*(size or (None, None) for size in sizes), strict=True)
        of_workers = [tuple(self._workers[line.worker].values()) for line in lines]
        columns.update(zip(_OF_WORKER, zip(*of_workers, strict=True), strict=True))
        columns.update(
            video=[_text(video) for video in videos], view=labels, seed=seeds, yaw=yaws, pitch=pitches, zoom=zooms,
            sampler=["fixed"] * count, status=["done"] * count,
            failed_runs=[view.failed_runs for view in histories], frames=frames, fps=fps,
            frame_rate=[rate or _rate_text(number) for rate, number in zip(rates, fps, strict=True)],
            bytes=lengths, finished=[int(line.key[0] * 1000) for line in lines],
            fingerprint=fingerprints, made_with=[None if value is None else self._json(value) for value in made_with],
        )  # fmt: skip
        return columns

    def _json(self, value: Any) -> str:
        """Return the JSON text with sorted keys."""
        known = self._texts.get(id(value))
        if known is None:
            known = self._texts[id(value)] = value, json.dumps(value, sort_keys=True)
        return known[1]


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
    import pyarrow as pa  # noqa: PLC0415 - slow to load, and not always needed

    try:
        return pa.array(values, type_)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return pa.array([_FITTING[kind](value) for value in values], type_)


_PICKED = (
    "seed", "yaw", "pitch", "zoom", "camera", "frames", "fps", "frame_rate", "size", "bytes", "stages", "render_time",
    "fingerprint", "made_with",
)  # fmt: skip


def _is_usual(view: ViewHistory) -> bool:
    """Return whether a view is done, and its line as most are: drawn from a seed, with a camera that stands still."""
    line = view.made
    if line is None or line.shape.file is None or view.status != "done":
        return False
    seed, yaw, pitch, zoom, sampler, trajectory = line.pick(("seed", "yaw", "pitch", "zoom", "sampler", "trajectory"))
    return None not in (seed, yaw, pitch, zoom) and sampler is None and trajectory in (None, "fixed")


# Of matrices that a journal has in part: all numbers, and the places of those in the journal.
_WHOLE: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "K": ((0.0,) * 8 + (1.0,), (0, 4, 2, 5)),  # fx, fy, cx, cy
    "viewmat": ((0.0,) * 15 + (1.0,), tuple(range(12))),
}
_OF_NUMBERS = ("azimuth", "elevation", *_WHOLE, *STAGE_COLUMNS.values())


def _numbers(
    files: Sequence[Any], cameras: Sequence[int | None], stages: Sequence[int | None], times: Sequence[float | None]
) -> dict[str, Any] | None:
    """Return the columns of `_OF_NUMBERS` of cameras and stages that are in journals; None: one is in another form.

    times: the render times, for the stage of this name where it is not among them.
    """
    import pyarrow as pa  # noqa: PLC0415 - slow to load, and not always needed
    import pyarrow.compute as pc  # noqa: PLC0415 - slow to load, and not always needed
    import pyarrow.json as pj  # noqa: PLC0415 - slow to load, and not always needed

    real, reals = pa.float64(), pa.list_(pa.float64())
    camera = pa.struct([("azimuth", real), ("elevation", real), ("K", reals), ("viewmat", reals)])
    schema = pa.schema([("camera", camera), ("stages", pa.struct([(stage, real) for stage in STAGE_COLUMNS]))])
    with open_texts() as text_at:
        text = "\n".join([
            f'{{"camera":{text_at(file, at) if at else "null"},"stages":{text_at(file, spent) if spent else "null"}}}'
            for file, at, spent in zip(files, cameras, stages, strict=True)
        ]).encode("latin-1")  # fmt: skip
    try:
        table = pj.read_json(
            pa.BufferReader(text),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(text) + 1),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    fields = table["camera"].combine_chunks().flatten()
    columns = dict(zip(("azimuth", "elevation", "K", "viewmat"), fields, strict=True))
    there = len(cameras) - cameras.count(None)
    for name, (_, places) in _WHOLE.items():
        lengths = pc.list_value_length(columns[name])
        if (pc.sum(pc.equal(lengths, len(places))).as_py() or 0) != there:
            return None
        columns[name] = _matrices(name, columns[name])
    if any(len(cameras) - columns[name].null_count != there for name in ("azimuth", "elevation")):
        return None
    spent = dict(zip(STAGE_COLUMNS.values(), table["stages"].combine_chunks().flatten(), strict=True))
    render = STAGE_COLUMNS[timing.RENDER]
    return {**columns, **spent, render: pc.coalesce(spent[render], pa.array(times, real))}


def _matrices(name: str, parts: Any) -> Any:
    """Return whole matrices, as an array of lists, of those that a journal has in part."""
    import numpy as np  # noqa: PLC0415 - slow to load, and not always needed
    import pyarrow as pa  # noqa: PLC0415 - slow to load, and not always needed

    whole, places = _WHOLE[name]
    numbers = parts.flatten().to_numpy().reshape(-1, len(places))
    full = np.tile(np.array(whole), (len(numbers), 1))
    full[:, places] = numbers
    there = parts.is_valid().to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(parts) + 1, np.int32)
    np.cumsum(there * len(whole), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets, mask=np.append(~there, False)), pa.array(full.ravel()))


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


def _of_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """What the parameter log of an earlier version or of the original says of a view."""
    known = {key: entry.get(key) for key in ("seed", "yaw", "pitch", "zoom", "frames", "error")}
    return {
        **known,
        **_of_camera(entry)[0],
        "seconds_render": entry.get("render_time"),
        "status": "failed" if entry.get("status") == "failed" else "done",
    }


_OF_WORKER = ("root", "part", "host", "device", "gpu", "rasteriser", "precision", "versions")


def _of_worker(history: History, worker: WorkerHistory) -> dict[str, Any]:
    """What the views that a process made have in common."""
    machine = worker.used.get("machine") or {}
    return {
        "root": None if worker.root in (None, history.root) else _text(str(worker.root)),
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
