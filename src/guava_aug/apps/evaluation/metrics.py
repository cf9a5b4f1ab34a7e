"""PSNR, SSIM and colour difference of pictures 0..1.

PSNR is -10 log10 of the mean squared error over pixels and channels (peak 1), at most `PSNR_CEILING`.
SSIM is that of Wang et al., "Image quality assessment: from error visibility to structural similarity" (2004): an
11 x 11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, dynamic range 1, variances of the window as they are (no
n - 1), for each of the channels R, G, B, whose mean it is. Only windows that lie wholly inside the picture count.
Delta E is the distance in CIELAB (CIE 1976, D65, pictures taken as sRGB): 2 is just seen, 10 is another colour. It
tells a shift of hue that PSNR forgives.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
PSNR_CEILING = 100.0  # dB; equal pictures have no finite one


def psnr(picture: Tensor, truth: Tensor, where: Tensor | None = None) -> float:
    """Return the PSNR in dB of picture [C, H, W] against truth; over the pixels `where` [H, W] bool alone, if given.

    Raises ValueError when `where` is empty.
    """
    error = (picture - truth).square()
    if where is not None:
        if not bool(where.any()):
            raise ValueError("psnr over no pixel at all")
        error = error[:, where]
    mse = float(error.double().mean())
    return PSNR_CEILING if mse <= 10 ** (-PSNR_CEILING / 10) else -10 * math.log10(mse)


def delta_e(picture: Tensor, truth: Tensor, where: Tensor) -> float:
    """Return mean CIE 1976 colour difference of picture [3, H, W] from truth over the pixels `where` [H, W] bool.

    Raises ValueError when `where` is empty.
    """
    if not bool(where.any()):
        raise ValueError("delta_e over no pixel at all")
    lab = [cv2.cvtColor(_channels_last(t).astype(np.float32), cv2.COLOR_RGB2Lab) for t in (picture, truth)]
    return float(np.linalg.norm(lab[0] - lab[1], axis=-1)[where.cpu().numpy()].mean(dtype=np.float64))


def ssim_map(picture: Tensor, truth: Tensor) -> Tensor:
    """Return [H - 10, W - 10] SSIM of the window around every pixel that has a whole one, mean over the channels.

    picture, truth: [C, H, W], at least `WINDOW` pixels high and wide.
    """
    x, y = _channels_last(picture), _channels_last(truth)
    mean_x, mean_y, xx, yy, xy = (_windows(m) for m in (x, y, x * x, y * y, x * y))
    c1, c2 = K1**2, K2**2
    covariance = xy - mean_x * mean_y
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return torch.from_numpy((luminance * (2 * covariance + c2) / (variances + c2)).mean(-1))


def inner(where: Tensor) -> Tensor:
    """Return [H - 10, W - 10] of a mask [H, W]: the pixels that `ssim_map` has."""
    edge = WINDOW // 2
    return where[edge : where.shape[0] - edge, edge : where.shape[1] - edge]


def _channels_last(x: Tensor) -> np.ndarray:
    """Return [H, W, C] float64 of [C, H, W]."""
    return x.detach().cpu().double().permute(1, 2, 0).contiguous().numpy()


def _windows(x: np.ndarray) -> np.ndarray:
    """Return [H - 10, W - 10, C] Gaussian means of the whole windows of x [H, W, C]."""
    edge = WINDOW // 2
    blurred = cv2.GaussianBlur(x, (WINDOW, WINDOW), SIGMA).reshape(x.shape)  # it drops a single channel
    return blurred[edge : x.shape[0] - edge, edge : x.shape[1] - edge]
