"""Samplers: from a view's parameters to a camera per frame. A new kind of view is a function here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from guava_aug.errors import UsageError
from guava_aug.views.cameras import (
    KEY_FRAMES,
    Cameras,
    check_K,
    circle_cameras,
    fixed_camera,
    resized_K,
    tracked_cameras,
    zoom_cameras,
)


class Sampler(Protocol):
    """A function from parameters and frame numbers to cameras, viewmats [T, 4, 4]; see `View.cameras`."""

    def __call__(
        self,
        params: Mapping[str, Any],
        source_viewmat: Tensor,  # [4, 4]
        frames: Sequence[int],  # T numbers
        size: int,
        K: Tensor | None,  # [3, 3] the clip's lens
    ) -> Cameras:
        """Return the cameras of the numbered frames."""


def fixed(
    params: Mapping[str, Any], source_viewmat: Tensor, frames: Sequence[int], size: int, K: Tensor | None
) -> Cameras:
    """Return one camera for all frames, at the original's nominal yaw, pitch (radians) and zoom."""
    one = fixed_camera(source_viewmat, params["yaw"], params["pitch"], params["zoom"], size, K=K)
    return Cameras(one.viewmats.repeat(len(frames), 1, 1), one.K, size, size)


def circle(
    params: Mapping[str, Any], source_viewmat: Tensor, frames: Sequence[int], size: int, K: Tensor | None
) -> Cameras:
    """Return the original's circling camera; frame i has key frame i mod 120."""
    keys = circle_cameras(source_viewmat, params["yaw"], params["pitch"], params["zoom"], size, K=K)
    return _at_key_frames(keys, frames)


def zoom(
    params: Mapping[str, Any], source_viewmat: Tensor, frames: Sequence[int], size: int, K: Tensor | None
) -> Cameras:
    """Return the original's circling camera that also changes its distance, by zoom - 1."""
    keys = zoom_cameras(source_viewmat, params["yaw"], params["pitch"], params["zoom"] - 1.0, size, K=K)
    return _at_key_frames(keys, frames)


def given(
    params: Mapping[str, Any], source_viewmat: Tensor, frames: Sequence[int], size: int, K: Tensor | None
) -> Cameras:
    """Return explicit cameras: `viewmats` [4, 4], or [F, 4, 4] for F frames; the last one is repeated.

    With `K` [3, 3] and its `width`, `height` in pixels they also define the lens; without, it is the clip's.
    """
    viewmats = torch.tensor(params["viewmats"], dtype=torch.float32)
    if viewmats.shape[-2:] != (4, 4) or viewmats.dim() not in (2, 3) or not len(viewmats):
        raise UsageError(f"expected viewmats [4, 4] or [F, 4, 4], found {list(viewmats.shape)}")
    if viewmats.dim() == 3:
        viewmats = viewmats[torch.tensor(frames).clamp(max=len(viewmats) - 1)]
    else:
        viewmats = viewmats.repeat(len(frames), 1, 1)
    if params.get("K") is not None:
        K = check_K(torch.tensor(params["K"]))
        K = resized_K(K, (int(params["width"]), int(params["height"])), (size, size))
    return tracked_cameras(viewmats, size, K=K)


SAMPLERS: dict[str, Sampler] = {"fixed": fixed, "circle": circle, "zoom": zoom, "given": given}


def sample(
    name: str,
    sampler: str,
    params: Mapping[str, Any],
    source_viewmat: Tensor,  # [4, 4]
    frames: Sequence[int],  # T numbers
    size: int,
    K: Tensor | None,  # [3, 3]
) -> Cameras:
    """Return the T cameras of the view `name`. Raises the errors of `View.cameras`."""
    if sampler not in SAMPLERS:
        raise UsageError(f"view {name}: expected a sampler of {', '.join(SAMPLERS)}, found {sampler!r}")
    try:
        return SAMPLERS[sampler](params, source_viewmat, frames, size, K)
    except (KeyError, TypeError, ValueError) as error:
        missing = f"no parameter {error}" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"view {name}: sampler {sampler!r} cannot use its parameters ({missing})") from error


def _at_key_frames(keys: Cameras, frames: Sequence[int]) -> Cameras:
    return Cameras(keys.viewmats[torch.tensor(frames) % KEY_FRAMES], keys.K, keys.width, keys.height)
