"""Entry point of the Gaussian rasteriser: checks the arguments, selects a backend, returns a `Raster`."""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from guava_aug.errors import DeviceError, InputError, UsageError
from guava_aug.render import rasterize_torch
from guava_aug.render.backends import BACKENDS as BACKENDS
from guava_aug.render.backends import Backend
from guava_aug.runtime.device import triton_usable, why_triton_unusable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Raster:
    """The result of rasterising N Gaussians for T cameras in one pass."""

    image: Tensor  # [T, C, H, W] sum of w_i f_i, plus T_final * background
    alpha: Tensor  # [T, 1, H, W] 1 - T_final, 0..1
    inverse_depth: Tensor  # [T, 1, H, W] sum of w_i / z_i, 1/metres, not divided by alpha
    radii: Tensor  # [T, N] int32 pixels, 0 where the Gaussian was culled

    @property
    def depth(self) -> Tensor:
        """Return [T, 1, H, W] metres: alpha / inverse_depth, the weighted harmonic mean of z; inf where alpha is 0."""
        covered = self.inverse_depth > 0
        ratio = self.alpha / torch.where(covered, self.inverse_depth, torch.ones_like(self.inverse_depth))
        return torch.where(covered, ratio, torch.full_like(ratio, math.inf))


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    features: Tensor,
    viewmats: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    background: Tensor | None = None,
    scale_modifier: float = 1.0,
    antialias: bool = False,
    backend: Backend = "auto",
) -> Raster:
    """Return a `Raster` of N Gaussians for T frames: feature image, alpha, inverse depth and radii in one pass.

    Everything is computed in float32 on the tensors' device. Frame t shows the Gaussians of frame t through camera t;
    opacities and features do not depend on the frame and are shared.

    Differentiable in all tensors if one requires a gradient: by kernels with a backward pass on a CPU ("numba" or
    "auto") and on a GPU ("triton" or "auto"; within 1e-3 of the reference), or by the reference ("torch"; its memory
    grows with every pair of a splat and a tile). Decisions (tile, order, thresholds) have no gradient.

    Source: the rules are those of the 3D Gaussian splatting rasteriser as written down in `rasterize_torch`.

    Args:
        means: [T, N, 3] centres, world metres.
        quats: [T, N, 4] rotations (w, x, y, z), used as given: a quaternion that is not of unit length also scales.
        scales: [T, N, 3] standard deviations along the Gaussian's own axes, metres.
        opacities: [N] 0..1.
        features: [N, C] any number of channels C >= 1, any range.
        viewmats: [T, 4, 4] world to camera, column vectors, OpenCV axes.
        K: [3, 3] pixels, no skew; integer pixel coordinates are pixel centres (see `views.cameras.intrinsics`).
        width: Image width in pixels, any size.
        height: Image height in pixels, any size.
        background: [C], weighted by the remaining transmittance; None is zero.
        scale_modifier: Factor on all scales.
        antialias: Lower the opacity of splats thinner than a pixel by what the 0.3 px^2 low-pass adds to them.
        backend: "torch" (the reference; CPU or CUDA, slow), "numba" (CPU only), "triton" (CUDA only), or
            "auto": the fastest on the tensors' device that supports the call.

    Raises:
        UsageError: An invalid shape, type, size or backend.
        InputError: A value is not finite. (A finite Gaussian whose projection overflows, or is wider than 2^30 pixels,
            is culled.)
        DeviceError: Tensors on different devices, or a backend that cannot run on theirs.
    """
    width, height = _check_size(width, height)
    _check_shapes(means, quats, scales, opacities, features, viewmats, K, background)
    black = background is None
    if background is None:
        background = features.new_zeros(features.shape[1])
    tensors = {
        "means": means, "quats": quats, "scales": scales, "opacities": opacities, "features": features,
        "viewmats": viewmats, "K": K, "background": background,
    }  # fmt: skip
    lens = _check_values(tensors, scale_modifier)
    chosen = _choose_backend(backend, tensors)
    _log_choice(chosen, means.device.type)
    float32 = [t.to(torch.float32) for t in tensors.values()]

    if chosen != "torch" and _wants_grad(tensors):
        from guava_aug.render.rasterize_grad import rasterize_images  # noqa: PLC0415 - most calls do not need it

        m, q, s, o, f, views, k, backdrop = float32
        image, alpha, inverse_depth, radii = rasterize_images(
            m, q, s, o[None], f[None], views, k.expand(len(views), 3, 3), width, height,
            scale_modifier=scale_modifier, antialias=antialias,
        )  # fmt: skip
        image = image + (1 - alpha) * backdrop[:, None, None]
    elif chosen == "numba":
        from guava_aug.render import rasterize_numba  # noqa: PLC0415 - numba is slow to import

        image, alpha, inverse_depth, radii = rasterize_numba.rasterize_frames(
            *float32, width=width, height=height, scale_modifier=scale_modifier, antialias=antialias
        )
    elif chosen == "triton":
        from guava_aug.render import rasterize_triton  # noqa: PLC0415 - needs Triton

        float32[list(tensors).index("K")] = lens  # on the CPU already: no synchronisation with the GPU
        image, alpha, inverse_depth, radii = rasterize_triton.rasterize_frames(
            *float32, width=width, height=height, scale_modifier=scale_modifier, antialias=antialias, black=black
        )
    else:
        image, alpha, inverse_depth, radii = rasterize_torch.rasterize_frames(
            *float32, width=width, height=height, scale_modifier=scale_modifier, antialias=antialias
        )
    return Raster(image, alpha, inverse_depth, radii)


def _check_size(width: int, height: int) -> tuple[int, int]:
    for name, value in (("width", width), ("height", height)):
        if int(value) != value or value < 1:
            raise UsageError(f"rasterize: {name} must be a whole number of pixels >= 1, found {value!r}")
    return int(width), int(height)


def _check_shapes(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    features: Tensor,
    viewmats: Tensor,
    K: Tensor,
    background: Tensor | None,
) -> None:
    if means.ndim != 3 or means.shape[-1] != 3:
        raise UsageError(
            f"rasterize: means must be [T, N, 3], found {list(means.shape)}; for a single frame pass means[None]"
        )
    if features.ndim != 2 or features.shape[1] < 1:
        raise UsageError(f"rasterize: features must be [N, C] with C >= 1, found {list(features.shape)}")
    T, N, _ = means.shape
    C = features.shape[1]
    expected: list[tuple[str, Tensor, tuple[int, ...], str]] = [
        ("quats", quats, (T, N, 4), "[T, N, 4]"),
        ("scales", scales, (T, N, 3), "[T, N, 3]"),
        ("opacities", opacities, (N,), "[N]"),
        ("features", features, (N, C), "[N, C]"),
        ("viewmats", viewmats, (T, 4, 4), "[T, 4, 4]"),
        ("K", K, (3, 3), "[3, 3]"),
    ]
    if background is not None:
        expected.append(("background", background, (C,), "[C]"))
    for name, tensor, shape, letters in expected:
        if tuple(tensor.shape) != shape:
            raise UsageError(
                f"rasterize: {name} must be {letters} = {list(shape)} (T, N from means, C from features), "
                f"found {list(tensor.shape)}"
            )


def _check_values(tensors: dict[str, Tensor], scale_modifier: float) -> Tensor:
    """Return K on the CPU. Raises the errors of `rasterize`."""
    device = tensors["means"].device
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UsageError(
                f"rasterize: {name} must be floating point, found {tensor.dtype}; convert it with .float()"
            )
        if tensor.device != device:
            raise DeviceError(f"rasterize: {name} is on {tensor.device} but means on {device}; move them together")
    if not math.isfinite(scale_modifier):
        raise UsageError(f"rasterize: scale_modifier must be finite, found {scale_modifier}")
    # NaN and inf survive a sum, so one cheap number per tensor clears the usual case (a float32 sum that overflows
    # only sends a healthy tensor to the exact count below).
    sums = [tensor.detach().sum(dtype=torch.float32) for tensor in tensors.values()]
    numbers = torch.cat([torch.stack(sums), tensors["K"].detach().float().flatten()]).tolist()  # one synchronisation
    if not all(math.isfinite(number) for number in numbers[: len(sums)]):
        for name, tensor in tensors.items():
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                first = torch.nonzero(~torch.isfinite(tensor))[0].tolist()
                raise InputError(
                    f"rasterize: {bad} of {tensor.numel()} values of {name} are NaN or infinite, the first at "
                    f"{first} (shape {list(tensor.shape)}); look for the frame that produced them"
                )
    K = numbers[len(sums) :]
    if K[0] <= 0 or K[4] <= 0 or K[1] != 0 or K[3] != 0:
        raise UsageError(f"rasterize: K must have positive focal lengths and no skew, found {[K[:3], K[3:6], K[6:]]}")
    return torch.tensor(K).view(3, 3)


def resolve_backend(backend: str, device: torch.device | str) -> str:
    """Return the backend for tensors on `device` without gradients: `backend`, or the one "auto" stands for."""
    if backend != "auto":
        return backend
    if torch.device(device).type == "cpu":
        return "numba"
    return "triton" if triton_usable(device) else "torch"


def check_backend(backend: str, device: torch.device | str) -> None:
    """Check that a backend supports tensors on `device`.

    Raises:
        UsageError: There is no such backend.
        DeviceError: It does not support the device.
    """
    device = torch.device(device)
    if backend not in BACKENDS:
        raise UsageError(f"rasterize: backend must be one of {', '.join(BACKENDS)}, found {backend!r}")
    if backend == "numba" and device.type != "cpu":
        raise DeviceError(f"rasterize: backend 'numba' draws on the CPU, not on {device}; use 'auto' or 'torch'")
    if backend == "triton" and not triton_usable(device):
        why = why_triton_unusable(device.index or 0) if device.type == "cuda" else f"not {device}"
        raise DeviceError(f"rasterize: backend 'triton' needs a CUDA device ({why}); use 'auto' or 'torch'")


def _choose_backend(backend: str, tensors: dict[str, Tensor]) -> str:
    device = tensors["means"].device
    check_backend(backend, device)
    return resolve_backend(backend, device)


def _wants_grad(tensors: dict[str, Tensor]) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors.values())


@functools.cache
def _log_choice(backend: str, device: str) -> None:
    logger.info("rasteriser: backend %s on %s tensors", backend, device)
