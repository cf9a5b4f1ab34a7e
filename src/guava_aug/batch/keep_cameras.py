"""`--keep_cameras`: a data set that grows. Difficulties are added at the end of the list, and what is there stays.

The seed of a difficulty's first view depends on the whole list of difficulties, as in the original. With --keep_cameras
a view that is in the log keeps the seed of the list it was made with, if that list is the beginning of the run's; every
other view gets the seed of the run's list. The lists of an output root, each the beginning of the next, are recorded
once, `.guava-aug/difficulties_N.json` for the one of N, and never replaced: so every part of a cluster job decides
alike, whatever videos it has and whatever others have made meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guava_aug.errors import OutputError, UsageError
from guava_aug.output.tree import RUN_FOLDER
from guava_aug.runtime.atomic import temporary_path
from guava_aug.runtime.plain_json import is_integer, loads
from guava_aug.views import DIFFICULTIES, View, seed_for

FORMAT = 1


@dataclass(frozen=True)
class DifficultyLists:
    """The lists of an output root, shortest first, each the beginning of the next; the last is the run's."""

    lists: tuple[tuple[str, ...], ...]
    base_seed: int

    def keep(self, name: str, view: View, logged: int | None) -> View:
        """Return the view with its logged seed, if one of the lists gives that seed; else as it is.

        name: of the video. logged: None, if the view is in no log.
        """
        if logged is None or view.index or logged == view.seed:
            return view
        return view.with_seed(logged) if logged in self.seeds(name, view.difficulty) else view

    def seeds(self, name: str, difficulty: str) -> list[int]:
        """Return the seeds that the lists give the first view of a difficulty."""
        lists = [one for one in self.lists if difficulty in one]
        return [seed_for(name, one, one.index(difficulty), self.base_seed) for one in lists]


def lists_of_root(
    root: Path, difficulties: Sequence[str], base_seed: int, logged: Iterable[tuple[str, str, int]]
) -> DifficultyLists:
    """Return the lists of an output root for a run with --keep_cameras. Writes nothing: see `record_lists`.

    logged: (video, view, seed) of all views of the root that are in a log; looked at where nothing is recorded yet.

    Raises:
        UsageError: what is there was made with a list that is no beginning of `difficulties`, or another base seed.
        OutputError: a record cannot be read or is damaged.
    """
    asked = tuple(difficulties)
    beginnings = tuple(asked[:count] for count in range(1, len(asked) + 1))
    recorded = _recorded(root)
    if recorded:
        seed, last = recorded[-1][1], recorded[-1][0]
        if seed != base_seed or last not in beginnings:
            raise UsageError(
                f"--keep_cameras: {root} holds views of --difficulties {' '.join(last)} --base_seed {seed} "
                f"({_path(root, last)}); expected a list that begins with these, found {' '.join(asked)} with "
                f"--base_seed {base_seed}. Use another --output_root"
            )
        return DifficultyLists(tuple(dict.fromkeys([*(one for one, _ in recorded), asked])), base_seed)
    all_lists = DifficultyLists(beginnings, base_seed)
    used = {asked}
    for video, label, seed in logged:
        if label not in DIFFICULTIES:
            continue  # a further view; its seed does not depend on the list
        seeds = all_lists.seeds(video, label)
        if seed not in seeds:
            raise UsageError(
                f"--keep_cameras: {video} / {label} of {root} has seed {seed}, which no beginning of --difficulties "
                f"{' '.join(asked)} gives with --base_seed {base_seed}: it was made with another list or base seed. "
                "Difficulties may only be added at the end; or use another --output_root"
            )
        used.add([one for one in beginnings if label in one][seeds.index(seed)])
    return DifficultyLists(tuple(one for one in beginnings if one in used), base_seed)


def record_lists(root: Path, lists: DifficultyLists) -> None:
    """Record the lists that are not recorded yet; of several processes the first one decides.

    Raises:
        UsageError: another process has recorded a list meanwhile that does not fit.
        OutputError: they cannot be written or read.
    """
    if len(lists.lists) < 2 and not _recorded(root):
        return  # nothing has grown
    made = []
    for one in lists.lists:
        path = _path(root, one)
        if not path.exists() and _create(path, {"format": FORMAT, "difficulties": one, "base_seed": lists.base_seed}):
            made.append(path)
    try:
        found = [one for one, seed in _recorded(root) if seed == lists.base_seed]
    except OutputError:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    if not set(lists.lists) <= set(found) or found[-1] != lists.lists[-1]:
        for path in made:
            path.unlink(missing_ok=True)
        others = " ".join(found[-1]) if found else "with another --base_seed"
        raise UsageError(
            f"--keep_cameras: meanwhile another run has given {root} the list {others}, this run has "
            f"{' '.join(lists.lists[-1])}; run both with one list"
        )


def _path(root: Path, difficulties: Sequence[str]) -> Path:
    return root / RUN_FOLDER / f"difficulties_{len(difficulties)}.json"


def _recorded(root: Path) -> list[tuple[tuple[str, ...], int]]:
    """Return (list, base seed) of every record, shortest first. Raises OutputError."""
    found: list[tuple[tuple[str, ...], int]] = []
    for count in range(1, len(DIFFICULTIES) + 1):
        path = root / RUN_FOLDER / f"difficulties_{count}.json"
        try:
            said = loads(path.read_text(encoding="utf-8"))
            names, seed = said["difficulties"], said["base_seed"]
            if (
                said["format"] != FORMAT
                or type(names) is not list
                or len(names) != count
                or len({name for name in names if name in DIFFICULTIES}) != count
                or not is_integer(seed)
                or (found and (found[-1][1] != seed or tuple(names[: len(found[-1][0])]) != found[-1][0]))
            ):
                raise ValueError("it is no list of difficulties that begins with the shorter ones")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{path}: the record of --difficulties cannot be read ({error}); repair it, or remove all "
                f"{path.with_name('difficulties_*.json')}: they are made again from the logs"
            ) from error
        found.append((tuple(names), seed))
    return found


def _create(path: Path, content: dict[str, object]) -> bool:
    """Create a file atomically unless it exists; return whether it did. Raises OutputError."""
    text = json.dumps(content, allow_nan=False) + "\n"
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # fails when it is there, on every file system that has links
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
        return True
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); check the disk") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
