"""Programs that import modules by their names of version 0.1.0 keep running."""

from __future__ import annotations

import importlib
import re
import sys

import pytest

from guava_aug.runtime.imports import MOVED, new_name


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_an_old_name_gives_the_very_module(old: str, new: str) -> None:
    sys.modules.pop(f"guava_aug.{old}", None)
    with pytest.warns(DeprecationWarning, match=re.escape(f"is now guava_aug.{new}")):
        found = importlib.import_module(f"guava_aug.{old}")
    assert found is importlib.import_module(f"guava_aug.{new}")
    assert found.__spec__ is not None and found.__spec__.name == found.__name__ == f"guava_aug.{new}"


def test_what_lies_in_a_moved_folder_is_loaded_once() -> None:
    old = importlib.import_module("guava_aug.demo.motion")
    assert old is importlib.import_module("guava_aug.apps.synthetic.motion")


def test_names_that_never_were_are_not_found() -> None:
    assert new_name("torch.config") is None
    with pytest.raises(ModuleNotFoundError, match=r"guava_aug\.nothing"):
        importlib.import_module("guava_aug.nothing")
