"""Re-render tracked upper-body videos from new cameras with GUAVA avatars.

    from guava_aug import augment

    result = augment("tracked", "augmented", videos=["clip_a"], difficulties=["easy", "hard"])

Names are imported when they are first used, so that `import guava_aug` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guava_aug.runtime.imports import install_moved_modules, lazy_attributes

if TYPE_CHECKING:
    from guava_aug.avatar.model import load_model
    from guava_aug.batch.config import RunConfig
    from guava_aug.batch.results import RunResult, ViewResult
    from guava_aug.batch.run import augment, run
    from guava_aug.errors import AssetError, DeviceError, GuavaAugError, InputError, OutputError, UsageError
    from guava_aug.runtime.version import __version__
    from guava_aug.tracked import TrackedVideo
    from guava_aug.views import View, plan_views

_WHERE = {
    "RunConfig": "batch.config",
    "RunResult": "batch.results",
    "TrackedVideo": "tracked",
    "View": "views",
    "ViewResult": "batch.results",
    "__version__": "runtime.version",
    "augment": "batch.run",
    "load_model": "avatar.model",
    "plan_views": "views",
    "run": "batch.run",
    "AssetError": "errors",
    "DeviceError": "errors",
    "GuavaAugError": "errors",
    "InputError": "errors",
    "OutputError": "errors",
    "UsageError": "errors",
}

__all__ = [
    "AssetError",
    "DeviceError",
    "GuavaAugError",
    "InputError",
    "OutputError",
    "RunConfig",
    "RunResult",
    "TrackedVideo",
    "UsageError",
    "View",
    "ViewResult",
    "__version__",
    "augment",
    "load_model",
    "plan_views",
    "run",
]


install_moved_modules()

__getattr__ = lazy_attributes(__name__, _WHERE)


def __dir__() -> list[str]:
    return sorted(__all__)
