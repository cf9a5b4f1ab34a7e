"""Names that are imported when they are first used, and modules under the names that they had in version 0.1.0."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

MOVED = {
    "avatar.occlusion": "avatar.visibility",
    "avatar.vit": "avatar.encoder",
    "bench": "apps.benchmark",
    "config": "batch.config",
    "demo": "apps.synthetic",
    "demo.excerpt": "apps.synthetic.clips",
    "demo.people": "apps.synthetic.subjects",
    "demo.plain": "apps.synthetic.painted_subjects",
    "device": "runtime.device",
    "doctor": "apps.doctor",
    "estimate": "apps.estimate",
    "evaluation": "apps.evaluation",
    "fingerprint": "batch.fingerprint",
    "history": "batch.journal.history",
    "jobs": "batch.run",
    "journal": "batch.journal.journal",
    "manifest": "batch.journal.manifest",
    "model": "avatar.model",
    "mp4_header": "output.mp4_probe",
    "output.camera_tag": "output.metadata",
    "output.params_log": "batch.journal.params_log",
    "output.quantize": "output.frames",
    "output.sidecar": "output.metadata",
    "pipeline": "batch.pipeline",
    "progress": "runtime.progress",
    "render.composite": "render.background",
    "results": "batch.results",
    "runlog": "batch.journal.run_log",
    "safe_pickle": "runtime.safe_pickle",
    "shards": "batch.sharding",
    "timing": "runtime.timing",
    "tracked.boxes": "tracked.parameters",
    "training": "apps.training",
    "viewfiles": "output.view_writer",
    "worklist": "batch.plan",
}  # below `guava_aug`; folders with all that is in them

_PACKAGE = "guava_aug."


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` (PEP 562) of a package.

    Args:
        package: its `__name__`.
        modules: of each name the module that has it, below the package.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{modules[name]}", package), name)
        setattr(sys.modules[package], name, value)  # so that it is asked for once
        return value

    return __getattr__


def new_name(name: str) -> str | None:
    """Return the present name of a module of 0.1.0, or None if it has not moved."""
    if not name.startswith(_PACKAGE):
        return None
    parts = name[len(_PACKAGE) :].split(".")
    for count in range(len(parts), 0, -1):
        new = MOVED.get(".".join(parts[:count]))
        if new is not None:
            return _PACKAGE + ".".join([new, *parts[count:]])
    return None


class _MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a moved module under its old name.

    It is first in `sys.meta_path`: otherwise files of a moved folder would be loaded twice.
    """

    def __init__(self) -> None:
        self._specs: dict[
            int, importlib.machinery.ModuleSpec | None
        ] = {}  # by id of the module: the spec that the import replaces

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for the old name of a moved module; None for any other name."""
        new = new_name(name)
        return None if new is None else importlib.machinery.ModuleSpec(name, self, origin=new, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Import and return the module under its present name, with a DeprecationWarning."""
        assert spec.origin is not None
        module = importlib.import_module(spec.origin)
        warnings.warn(f"{spec.name} is now {spec.origin}", DeprecationWarning, stacklevel=2)
        self._specs[id(module)] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec only: the module has been executed under its present name."""
        module.__spec__ = self._specs.pop(id(module))


def install_moved_modules() -> None:
    """Make the names of 0.1.0 importable, for programs written for it; a second call changes nothing."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MovedFinder())
