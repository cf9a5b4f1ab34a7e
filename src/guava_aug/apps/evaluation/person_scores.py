"""How near rendered pictures of a person are to true ones: on the person, over one plain colour.

The render lies over the mean colour of what surrounds the person in the true pictures, never over the true picture
itself, which would hide what is not covered. Pictures of different cameras have different exposure: besides the plain
figures there are some after an affine change of colour (3 x 4). It is fitted either to where mask and render overlap,
or (`match_backgrounds`) to what two cameras show of the room, without a look at the person.

FLIP is that of Andersson et al., "FLIP: A Difference Evaluator for Alternating Images" (2020), by the optional package
`flip-evaluator` (BSD-3-Clause): 0 equal, 1 as different as can be, at 67 pixels per degree.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.apps.evaluation.metrics import WINDOW, inner, ssim_map
from guava_aug.runtime.text import in_short

log = logging.getLogger(__name__)

SOLID = 0.5  # alpha and mask from here on are person
GET_FLIP = "needs flip-evaluator: pip install 'guava-aug[evaluate]'"
_BLOCK = 8  # pixels a side; colour is matched on block means, so that small misplacements do not pull it to grey
_LUMINANCE = (0.299, 0.587, 0.114)
_FLIP_MARGIN = 24  # pixels around the person: its filters look so far at 67 pixels per degree
_LEAST_PIXELS = 64  # of a region, that it is measured
_FLOOR = 1e-6  # of a colour's variance

Flip = Callable[..., tuple[np.ndarray, float, dict[str, object]]]


@functools.cache
def flip_program() -> Flip | None:
    """Return `evaluate` of the package flip-evaluator; None: it is not installed, or does not load."""
    try:
        return importlib.import_module("flip_evaluator").evaluate
    except ModuleNotFoundError:
        return None
    except (ImportError, AttributeError, OSError) as error:
        log.warning("flip-evaluator is installed and does not load: %s", in_short(error))
        return None


def score(
    drawn: Mapping[int, tuple[Tensor, Tensor]],  # rgb [3, H, W], alpha [1, H, W]
    truth: Mapping[int, tuple[Tensor, Tensor]],  # rgb [3, H, W], mask [1, H, W]
    valid: Tensor,  # [H, W] bool
    regions: Mapping[int, Tensor] | None = None,  # [H, W] bool
    *,
    match: bool = True,
    background: Tensor | None = None,  # [4, 3] of `match_backgrounds`
) -> dict[str, float]:
    """Return means over the frames of one camera.

    psnr, psnr_matched (dB): on the true mask, the render over the mean colour of the true surroundings, before and
    after matching colours; psnr_background, if `background` is given: after that change of colour. overlap_matched:
    where mask and render overlap alone. ssim, flip: both pictures over that colour, on the true mask; after matching,
    if `match`; flip is missing without its package. iou: of the masks; missed, extra: area of the mask that is not
    covered, and covered area outside it, as shares of the mask. ncc: correlation of luminance in the overlap. flat:
    the PSNR that one mean colour per frame would have. frames: how many were measured: of a region, those in which the
    true mask has pixels.
    """
    device = next(iter(drawn.values()))[0].device
    valid = valid.to(device)
    truth = {i: (truth[i][0].to(device), truth[i][1].to(device)) for i in drawn}
    inside = {i: valid if regions is None else valid & regions[i].to(device) for i in drawn}
    surroundings = surrounding_color(list(truth.values()), valid)
    masks = {i: (truth[i][1][0] > SOLID) & inside[i] for i in drawn}
    if regions is not None:
        drawn = {i: pair for i, pair in drawn.items() if int(masks[i].sum()) >= _LEAST_PIXELS}
    overlap = {i: masks[i] & (alpha[0] > SOLID) for i, (_, alpha) in drawn.items()}
    transform = match_colors([(drawn[i][0], truth[i][0], overlap[i]) for i in drawn]) if drawn else None
    sums: dict[str, list[float]] = {}
    for i, (rgb, alpha) in drawn.items():
        assert transform is not None
        true, mask = truth[i]
        covered = (alpha[0] > SOLID) & inside[i]
        matched = apply_colors(transform, rgb)
        over = lambda x, a=alpha: x * a + surroundings * (1 - a)
        flat = true[:, masks[i]].var(1, unbiased=False).mean()
        found = {
            "psnr": _psnr(over(rgb), true, masks[i]),
            "psnr_matched": _psnr(over(matched), true, masks[i]),
            "overlap_matched": _psnr(matched, true, overlap[i]),
            "iou": float((covered & masks[i]).sum() / (covered | masks[i]).sum().clamp(min=1)),
            "missed": float((masks[i] & ~covered).sum() / masks[i].sum().clamp(min=1)),
            "extra": float((covered & ~masks[i]).sum() / masks[i].sum().clamp(min=1)),
            "ncc": _correlation(rgb, true, overlap[i]),
            "flat": -10 * math.log10(max(float(flat), 1e-9)),
        }
        if background is not None:
            found["psnr_background"] = _psnr(over(apply_colors(background, rgb)), true, masks[i])
        shown, person = over(matched if match else rgb), over(true, mask.to(alpha))
        found |= _perceived(shown, person, masks[i])
        for key, value in found.items():
            sums.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in sums.items()} | {"frames": float(len(drawn))}


def surrounding_color(truth: Sequence[tuple[Tensor, Tensor]], valid: Tensor) -> Tensor:
    """Return [3, 1, 1] the mean colour outside the masks of pictures [3, H, W] with masks [1, H, W]."""
    means = [_mean_color(true, valid & (mask[0] <= SOLID)) for true, mask in truth]
    return torch.stack(means).mean(0)[:, None, None]


def match_colors(samples: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return the affine map [4, 3] from first to second picture [3, H, W] of each sample within its mask [H, W]."""
    rows, targets, weights = [], [], []
    for picture, true, where in samples:
        pool = lambda x: F.avg_pool2d(x[None].double(), _BLOCK)[0].flatten(1).T  # [blocks, .]
        share = pool(where[None].float())[:, 0]
        full = share > 0.5
        rows.append((pool(picture * where) / share[:, None])[full])
        targets.append((pool(true * where) / share[:, None])[full])
        weights.append(share[full].sqrt()[:, None])
    X, Y, W = torch.cat(rows), torch.cat(targets), torch.cat(weights)
    if len(X) < 4:
        return torch.cat([torch.eye(3), torch.zeros(1, 3)]).to(samples[0][0])
    return torch.linalg.lstsq(torch.cat([X, torch.ones_like(X[:, :1])], 1) * W, Y * W).solution.float()


def match_backgrounds(ours: Sequence[tuple[Tensor, Tensor]], theirs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the affine map [4, 3] that gives the colours of one camera's background the spread of another's.

    Two cameras show other parts of a room, so there are no pairs of pixels: mean and covariance of the colours are
    brought to those of the other camera by the map that moves colours least (Pitie and Kokaram, "The linear
    Monge-Kantorovitch linear colour mapping", 2007).

    Args:
        ours: pictures [3, H, W] of the first camera, each with where its background is, [H, W] bool.
        theirs: likewise of the camera whose colours are wanted.
    """
    (m0, S0), (m1, S1) = (_spread([picture[:, where] for picture, where in pictures]) for pictures in (ours, theirs))
    root = _power(S0, 0.5)
    inverse = _power(S0, -0.5)
    A = inverse @ _power(root @ S1 @ root, 0.5) @ inverse
    return torch.cat([A, (m1 - m0 @ A)[None]]).float().to(ours[0][0].device)


def apply_colors(match: Tensor, picture: Tensor) -> Tensor:
    """Return the picture [3, H, W] after a change of colour [4, 3], 0..1."""
    return (torch.einsum("ck,chw->khw", match[:3], picture) + match[3][:, None, None]).clamp(0, 1)


def _perceived(picture: Tensor, true: Tensor, where: Tensor) -> dict[str, float]:
    """Return SSIM and, if its package is there, FLIP of the pixels `where`."""
    rows, columns = (torch.nonzero(where.any(k))[:, 0] for k in (1, 0))
    if len(rows) == 0:
        return {}
    cut = lambda x: x[
        ...,
        max(0, int(rows[0]) - _FLIP_MARGIN) : int(rows[-1]) + 1 + _FLIP_MARGIN,
        max(0, int(columns[0]) - _FLIP_MARGIN) : int(columns[-1]) + 1 + _FLIP_MARGIN,
    ]
    picture, true, where = (cut(x).cpu() for x in (picture.clamp(0, 1), true.clamp(0, 1), where))
    found = {}
    if min(where.shape) >= WINDOW and bool((middle := inner(where)).any()):
        found["ssim"] = float(ssim_map(picture, true)[middle].mean())
    if (program := flip_program()) is not None:
        reference, test = (np.ascontiguousarray(x.permute(1, 2, 0).numpy(), np.float32) for x in (true, picture))
        error = program(reference, test, "LDR", applyMagma=False, computeMeanError=False)[0]
        found["flip"] = float(np.asarray(error).reshape(where.shape)[where.numpy()].mean())
    return found


def _spread(colors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mean [3] and covariance [3, 3] of colours [3, n] of several pictures."""
    x = torch.cat([c.cpu().double() for c in colors], 1).T
    if len(x) < 4:
        return torch.full((3,), 0.5).double(), torch.eye(3).double()
    return x.mean(0), torch.cov(x.T) + _FLOOR * torch.eye(3).double()


def _power(S: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.clamp(min=_FLOOR**2) ** exponent) @ vectors.T


def _mean_color(picture: Tensor, where: Tensor) -> Tensor:
    return picture[:, where].mean(1) if bool(where.any()) else picture.flatten(1).mean(1)


def _psnr(picture: Tensor, true: Tensor, where: Tensor) -> float:
    if not bool(where.any()):
        return 0.0
    return -10 * math.log10(max(float((picture - true)[:, where].square().double().mean()), 1e-9))


def _correlation(picture: Tensor, true: Tensor, where: Tensor) -> float:
    weights = picture.new_tensor(_LUMINANCE)
    a, b = (torch.einsum("c,cn->n", weights, x[:, where]).double() for x in (picture, true))
    if len(a) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / ((a * a).sum() * (b * b).sum() + 1e-12).sqrt())
