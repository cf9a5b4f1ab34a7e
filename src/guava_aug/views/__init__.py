"""Views: difficulties, seeds, cameras and trajectories.

Modules that need torch are imported on first use, as planning does not need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guava_aug.runtime.imports import lazy_attributes
from guava_aug.views.difficulty import DIFFICULTIES as DIFFICULTIES
from guava_aug.views.difficulty import seed_for as seed_for
from guava_aug.views.view import View as View
from guava_aug.views.view import plan_views as plan_views

if TYPE_CHECKING:
    from guava_aug.views.cameras import Cameras as Cameras
    from guava_aug.views.cameras import camera_center as camera_center
    from guava_aug.views.cameras import circle_cameras as circle_cameras
    from guava_aug.views.cameras import fixed_camera as fixed_camera
    from guava_aug.views.cameras import full_proj_transform as full_proj_transform
    from guava_aug.views.cameras import look_at as look_at
    from guava_aug.views.cameras import tracked_cameras as tracked_cameras
    from guava_aug.views.cameras import viewing_angles as viewing_angles
    from guava_aug.views.cameras import world_view_transform as world_view_transform
    from guava_aug.views.cameras import zoom_cameras as zoom_cameras

_WHERE = dict.fromkeys(
    (
        "Cameras", "camera_center", "circle_cameras", "fixed_camera", "full_proj_transform", "look_at",
        "tracked_cameras", "viewing_angles", "world_view_transform", "zoom_cameras",
    ),
    "cameras",
)  # fmt: skip

__getattr__ = lazy_attributes(__name__, _WHERE)
