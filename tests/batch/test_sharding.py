"""Parts of a cluster job: every video in exactly one, whatever their number and the order of the list."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeModel, write_clip
from guava_aug import UsageError, augment
from guava_aug.batch.sharding import Shard, number_of, shard_of_slurm_array
from run_outputs import logged, tree

NAMES = [f"clip {i} é" for i in range(11)]


@given(st.lists(st.text(), unique=True), st.integers(1, 70))
def test_every_name_is_in_one_part(names: list[str], count: int):
    parts = [Shard(i, count).select(names) for i in range(count)]
    assert sorted(name for part in parts for name in part) == sorted(names)


def test_the_parts_are_for_ever():
    """Golden numbers: another hash would do done work again on a cluster that is updated in the middle of a job."""
    assert [number_of(name) % 64 for name in ("synthetic_clip", "a", "é", "\udcff")] == [2, 10, 19, 16]


def test_parts_are_of_like_size():
    names = [f"video_{i:05d}" for i in range(8257)]
    sizes = [len(Shard(i, 64).select(names)) for i in range(64)]
    assert min(sizes) > 90
    assert max(sizes) < 175


@pytest.mark.parametrize("text", ["", "3", "4/4", "1/0", "-1/4", "a/b", "1/4/2", "1,4", "none"])
def test_refused(text: str):
    with pytest.raises(UsageError, match="--shard"):
        Shard.parse(text)


def array(task: int, ids: list[int], step: int = 1) -> dict[str, str]:
    values = {"ID": task, "COUNT": len(ids), "MIN": min(ids), "MAX": max(ids), "STEP": step}
    return {f"SLURM_ARRAY_TASK_{key}": str(value) for key, value in values.items()}


def test_slurm_arrays():
    assert shard_of_slurm_array({}) is None
    assert [shard_of_slurm_array(array(i, [0, 1, 2, 3])) for i in range(4)] == [Shard(i, 4) for i in range(4)]
    assert [shard_of_slurm_array(array(i, [1, 2, 3])) for i in (1, 2, 3)] == [Shard(i, 3) for i in range(3)]
    assert [shard_of_slurm_array(array(i, [5, 15, 25], 10)) for i in (5, 15, 25)] == [Shard(i, 3) for i in range(3)]
    assert shard_of_slurm_array(array(7, [7])) == Shard(0, 1)
    for ids, step in (([1, 5, 9], 1), ([3, 7], 1)):  # --array=3,7: some tasks sent again
        with pytest.raises(UsageError, match="--shard i/n"):
            shard_of_slurm_array(array(ids[1], ids, step))
    with pytest.raises(UsageError, match="--shard i/n"):
        shard_of_slurm_array({"SLURM_ARRAY_TASK_ID": "3"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tracked videos, and what one run makes of them."""
    root = tmp_path_factory.mktemp("sharding")
    for name in NAMES:
        write_clip(root / "tracked", name, frames=2)
    augment(root / "tracked", root / "whole", NAMES, ["easy", "hard"], views_per_difficulty=2, model=FakeModel())
    return root


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7, 64])
def test_the_tree_does_not_depend_on_the_parts(whole: Path, tmp_path: Path, count: int):
    """Shuffled lists, other chunks and groups: the same files, bytes and cameras as one run of the whole list."""
    options = {"views_per_difficulty": 2, "model": FakeModel()}
    cameras = {}
    for i in random.Random(count).sample(range(count), count):
        shuffled = random.Random(i).sample(NAMES, len(NAMES))
        more = {"shard": f"{i}/{count}", "part_id": str(i), "frames_per_chunk": 1 + i % 3, "views_in_flight": 1 + i % 4}
        result = augment(whole / "tracked", tmp_path / "parts", shuffled, ["easy", "hard"], **options, **more)
        assert result.count() == ({"success": len(result.views)} if result.views else {})
        if result.views:
            cameras |= logged(tmp_path / "parts", f"_part_{i}")
    assert tree(tmp_path / "parts") == tree(whole / "whole")
    keys = ("seed", "yaw", "pitch", "zoom")
    pick = lambda log: {(v, k): [e[key] for key in keys] for v, views in log.items() for k, e in views.items()}
    assert pick(cameras) == pick(logged(whole / "whole"))
