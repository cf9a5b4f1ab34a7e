"""New views of a real person against truth: a video from several calibrated, synchronised cameras.

The avatar comes from one camera's frames and is compared with what all cameras saw. A folder of such a video (none is
part of the project):

    pack.json           video, source (a camera's name), frames, size (pixels, square), scored (frame numbers; left out:
                        all), cameras: {name: {K [3,3], viewmat [4,4] world to camera in metres, heads: per frame
                        [x, y, radius] in pixels, or null where the head is hidden}}, alignment (left out: nothing
                        is said): how the fit of the body was made to agree with the cameras
    CAMERA/valid.png    white where the camera's picture can be judged (lens edges, other objects left out)
    CAMERA/000000.png   (or .jpg) undistorted picture of a frame, CAMERA/mask_000000.png the person in it, grey
    tracked/            the source camera's video as the tracker wrote it; the avatar's first guess is made from it
    fits/NAME.npz       a fit of the body: identity_*, motion_* (fields of `body.Identity`, `body.Motion`), viewmats
                        [T,4,4] body world to source camera, metres (real metres per unit of the fit)

What the figures are, `person_scores` says: pictures of different cameras have different exposure, so that besides the
plain PSNR there is one after an affine change of colour, fitted to all frames of a camera together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.evaluation.person_scores import match_backgrounds, score
from guava_aug.avatar.personalize import Observations
from guava_aug.body import Identity, Motion
from guava_aug.errors import InputError, UsageError
from guava_aug.views.cameras import Cameras

_BACKGROUND = 0.02  # of the mask; more is the rim of the person


@dataclass(frozen=True)
class PackCamera:
    """One calibrated camera of a pack."""

    name: str
    K: Tensor  # [3, 3]
    viewmat: Tensor  # [4, 4] world -> camera, metres
    heads: list[list[float] | None]  # x, y, radius in pixels


@dataclass(frozen=True)
class BodyFit:
    """Identity and motion of the body, and where the source camera is in its world."""

    identity: Identity
    motion: Motion
    viewmats: Tensor  # [T, 4, 4] body world -> source camera
    metres: float  # real metres per unit of the fit


class CalibratedPack:
    """A folder as above. Raises InputError naming what is missing or does not fit."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        path = self.folder / "pack.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self.video, self.source = str(content["video"]), str(content["source"])
            self.num_frames, self.size = int(content["frames"]), int(content["size"])
            self.alignment = dict(content.get("alignment", {}))  # how the fit was made to agree with the cameras
            self.scored = [int(i) for i in content.get("scored", range(self.num_frames))]
            self.cameras = {
                name: PackCamera(
                    name, torch.tensor(c["K"]), torch.tensor(c["viewmat"], dtype=torch.float64),
                    c.get("heads") or [None] * self.num_frames,
                )
                for name, c in content["cameras"].items()
            }  # fmt: skip
            shapes = {tuple(c.K.shape) + tuple(c.viewmat.shape) for c in self.cameras.values()}
            if self.source not in self.cameras or shapes != {(3, 3, 4, 4)}:
                raise ValueError("`source` must be one of `cameras`, each with K [3, 3] and viewmat [4, 4]")
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"{path} cannot be read ({why}); expected a folder of calibrated views") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} does not describe calibrated views ({error!r}); guava_aug.apps.evaluation.real says what it "
                "holds"
            ) from error

    def fit(self, name: str) -> BodyFit:
        """Return the fit `fits/NAME.npz`."""
        path = self.folder / "fits" / f"{name}.npz"
        try:
            with np.load(path) as data:
                part = lambda kind, prefix: kind(
                    **{f.name: torch.from_numpy(data[f"{prefix}_{f.name}"]).float() for f in fields(kind)}
                )
                fit = BodyFit(part(Identity, "identity"), part(Motion, "motion"),
                              torch.from_numpy(data["viewmats"]).float(), float(data["metres"]))  # fmt: skip
        except (OSError, KeyError, ValueError) as error:
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.npz"))) or "none"
            raise InputError(f"no usable fit {path} ({error!r}); fits there: {there}") from error
        if len(fit.motion) != self.num_frames or tuple(fit.viewmats.shape) != (self.num_frames, 4, 4):
            raise InputError(f"{path} has {len(fit.motion)} frames, the pack {self.num_frames}")
        return fit

    def picture(self, camera: str, frame: int) -> tuple[Tensor, Tensor]:
        """Return [3, H, W] colour and [1, H, W] soft mask 0..1 of one frame."""
        folder = self.folder / camera
        path = next((p for ext in ("png", "jpg") if (p := folder / f"{frame:06d}.{ext}").is_file()), None)
        if path is None:
            raise InputError(f"no picture {folder / f'{frame:06d}.png'} (or .jpg)")
        color = self._read(path, cv2.IMREAD_COLOR)[..., ::-1]
        grey = self._read(folder / f"mask_{frame:06d}.png", cv2.IMREAD_GRAYSCALE)[..., None]
        rgb, mask = (torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1).float() / 255 for x in (color, grey))
        return rgb, mask

    def valid(self, camera: str) -> Tensor:
        """Return [H, W] bool: where the camera can be judged."""
        return torch.from_numpy(self._read(self.folder / camera / "valid.png", cv2.IMREAD_GRAYSCALE) > 127)

    def relative(self, camera: str, metres: float) -> Tensor:
        """Return [4, 4] source camera -> camera, in units of a fit with so many metres each."""
        view = self.cameras[camera].viewmat @ torch.linalg.inv(self.cameras[self.source].viewmat)
        view = view.clone()
        view[:3, 3] /= metres
        return view.float()

    def views(self, camera: str, fit: BodyFit) -> Cameras:
        """Return the camera as the fitted body's world has it, frame by frame."""
        viewmats = self.relative(camera, fit.metres) @ fit.viewmats.cpu()
        return Cameras(viewmats, self.cameras[camera].K.float(), self.size, self.size)

    def _read(self, path: Path, flag: int) -> np.ndarray:
        found = cv2.imread(str(path), flag)
        if found is None or found.shape[:2] != (self.size, self.size):
            seen = "nothing readable" if found is None else f"{found.shape[1]} x {found.shape[0]} pixels"
            raise InputError(f"{path}: expected a picture of {self.size} x {self.size} pixels, found {seen}")
        return found


def observe(pack: CalibratedPack, fit: BodyFit, cameras: Sequence[str]) -> Observations:
    """Return what the cameras saw of all frames, for a fit of the avatar; the first must be the source camera.

    Raises UsageError when it is not.
    """
    if not cameras or cameras[0] != pack.source:
        raise UsageError(f"the first camera must be the source camera {pack.source!r}, found {list(cameras)}")
    found = [pack.picture(name, i) for name in cameras for i in range(pack.num_frames)]
    images, masks = (torch.stack([(255 * pair[k]).round().to(torch.uint8) for pair in found]) for k in (0, 1))
    return Observations(
        images=images,
        masks=masks,
        frames=torch.arange(pack.num_frames).repeat(len(cameras)),
        cameras=torch.arange(len(cameras)).repeat_interleave(pack.num_frames),
        known=torch.stack([pack.valid(name)[None] for name in cameras]),
        relative=torch.stack([pack.relative(name, fit.metres) for name in cameras]),
        K=torch.stack([pack.cameras[name].K.float() for name in cameras]),
    )


Draw = Callable[[int, Cameras], tuple[Tensor, Tensor]]  # frame, camera (T = 1) -> rgb [3, H, W], alpha [1, H, W]
Parts = Callable[[str, int], dict[str, Tensor]]  # camera, frame -> regions by name, [H, W] bool


def evaluate_pack(
    pack: CalibratedPack,
    fit: BodyFit,
    draw: Draw,
    frames: Sequence[int] | None = None,
    cameras: Sequence[str] | None = None,
    *,
    parts: Parts = lambda camera, frame: {},
) -> dict[str, dict[str, float]]:
    """Return figures of every camera over `frames` (those to be scored): {camera: {...}, "head CAMERA": {...}}.

    The regions of `parts` are rows of their own, "PART CAMERA"; heads that the pack names are used instead of these.
    Cameras other than the source camera also get the figure with colours matched on the backgrounds.
    """
    frames = pack.scored if frames is None else frames
    rows = {}
    source = None
    for name in cameras or pack.cameras:
        views, valid = pack.views(name, fit), pack.valid(name)
        heads = pack.cameras[name].heads
        drawn = {i: draw(i, views[i : i + 1]) for i in frames}
        truth = {i: pack.picture(name, i) for i in frames}
        background = None
        if name != pack.source:
            source = source or _backgrounds(pack, pack.source, frames)
            background = match_backgrounds(source, _backgrounds(pack, name, frames))
        rows[name] = score(drawn, truth, valid, background=background)
        regions: dict[str, dict[int, Tensor]] = {}
        for i in frames:
            for part, region in parts(name, i).items():
                regions.setdefault(part, {})[i] = region
        named = {i: _disc(heads[i], pack.size) for i in frames if heads[i] is not None}
        for part, found in (regions | ({"head": named} if named else {})).items():
            scores = score({i: drawn[i] for i in found}, truth, valid, found, background=background)
            if scores["frames"]:
                rows[f"{part} {name}"] = scores
    return rows


def _backgrounds(pack: CalibratedPack, camera: str, frames: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Return pictures of a camera, and where they show its background."""
    valid = pack.valid(camera)
    pictures = [pack.picture(camera, i) for i in frames]
    return [(rgb, valid & (mask[0] < _BACKGROUND)) for rgb, mask in pictures]


def _disc(head: Sequence[float] | None, size: int) -> Tensor:
    assert head is not None
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (x - head[0]) ** 2 + (y - head[1]) ** 2 < head[2] ** 2
