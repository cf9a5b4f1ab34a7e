"""Views: one camera choice each, named and reproducible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from guava_aug.errors import UsageError
from guava_aug.views.difficulty import check_difficulties, draw, extra_seed, seed_for

if TYPE_CHECKING:  # a work list needs no torch
    from torch import Tensor

    from guava_aug.views.cameras import Cameras

Trajectory = Literal["fixed", "circle", "zoom"]


@dataclass(frozen=True, slots=True)
class View:
    """One output of a video: a difficulty, the number of the view in it, and the camera drawn for it."""

    difficulty: str
    index: int  # 0 is the original's view of this difficulty
    seed: int
    yaw: float  # radians, towards the person's left; on a moving trajectory the amplitude
    pitch: float  # radians, positive lowers the camera; on a moving trajectory the amplitude
    zoom: float  # factor on the camera's distance; for "zoom" 1 + the amplitude of the factor
    trajectory: Trajectory = "fixed"

    @property
    def label(self) -> str:
        """Folder name: the difficulty for view 0, `easy_001` and so on for the others."""
        return self.difficulty if self.index == 0 else f"{self.difficulty}_{self.index:03d}"

    def with_params(self, *, yaw: float, pitch: float, zoom: float, seed: int | None = None) -> View:
        """The same view with a logged camera: a view that was rendered once keeps it."""
        seed = self.seed if seed is None else seed
        return replace(self, yaw=float(yaw), pitch=float(pitch), zoom=float(zoom), seed=seed)

    def with_seed(self, seed: int) -> View:
        """The same view with the camera of another seed."""
        yaw, pitch, zoom = draw(self.difficulty, seed)
        return replace(self, seed=seed, yaw=yaw, pitch=pitch, zoom=zoom)

    def cameras(self, source_viewmat: Tensor, num_frames: int, size: int = 512, *, start: int = 0) -> Cameras:
        """Cameras of frames start .. start + num_frames - 1, viewmats [T, 4, 4] on the CPU.

        source_viewmat: [4, 4] tracked camera of the video's source frame. A fixed view has the same camera in every
        frame; on a moving trajectory frame i uses key frame i mod 120, so a video can be rendered in chunks.
        """
        import torch

        from guava_aug.views.cameras import KEY_FRAMES, Cameras, circle_cameras, fixed_camera, zoom_cameras

        if self.trajectory == "fixed":
            one = fixed_camera(source_viewmat, self.yaw, self.pitch, self.zoom, size)
            return Cameras(one.viewmats.repeat(num_frames, 1, 1), one.K, size, size)
        if self.trajectory == "circle":
            keys = circle_cameras(source_viewmat, self.yaw, self.pitch, self.zoom, size)
        elif self.trajectory == "zoom":
            keys = zoom_cameras(source_viewmat, self.yaw, self.pitch, self.zoom - 1.0, size)
        else:
            raise UsageError(f"view {self.label}: expected trajectory fixed, circle or zoom, found {self.trajectory!r}")
        return Cameras(keys.viewmats[torch.arange(start, start + num_frames) % KEY_FRAMES], keys.K, size, size)


def plan_views(
    name: str, difficulties: Sequence[str], base_seed: int = 42, views_per_difficulty: int = 1
) -> list[View]:
    """The views of the video `name`: all of the first difficulty, then all of the second, ...

    View 0 of a difficulty is the original's (its seed depends on the whole list, see `seed_for`); the seeds of the
    others depend only on (base seed, name, difficulty, number). Raises UsageError on an unknown difficulty, one named
    twice, or fewer than one view.
    """
    difficulties = check_difficulties(difficulties)
    if views_per_difficulty < 1:
        raise UsageError(f"--views_per_difficulty: expected 1 or more, found {views_per_difficulty}")
    views = []
    for i, difficulty in enumerate(difficulties):
        for k in range(views_per_difficulty):
            if k == 0:
                seed = seed_for(name, difficulties, i, base_seed)
            else:
                seed = extra_seed(name, difficulty, k, base_seed)
            views.append(View(difficulty, k, seed, *draw(difficulty, seed)))
    return views
