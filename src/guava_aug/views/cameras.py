"""Cameras, the original's rules for placing them, and their true viewing angles.

The numbers follow the original's generators, oddities included, so that a view is the same in both: 3.14 stands for pi,
and the polar angle is `arccos(1 - 2 v / pi)`, which is not `v`. Source: GUAVA augmentation fork.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from guava_aug.errors import InputError, UsageError

TANFOV = 1.0 / 24.0  # tan of the HALF field of view (config `invtanfov: 24`)
NEAR, FAR = 0.01, 100.0  # metres; they only enter `full_proj_transform`
ORIGINAL_PI = 3.14  # the original's base angles and trajectories
KEY_FRAMES = 120  # length of one period of a moving camera; frame i uses key frame i mod 120
LOOK_AT = (0.0, 0.75, 0.0)  # metres, y-up body frame; the tracked translation of the person is ignored
BASE_YAW = ORIGINAL_PI / 2
BASE_PITCH = ORIGINAL_PI / 2 - 0.05
PITCH_CLAMP = 1e-5  # radians kept from either pole
CONVENTION = (
    "viewmats: world to camera, column vectors, metres; OpenCV axes: x right, y down, z forward. K: pixels, integer "
    "coordinates are pixel centres. azimuth, elevation: degrees of the line from camera to look-at point; azimuth 0 "
    "is in front of the person, positive towards the person's left; elevation positive: the camera is above"
)
_DEPTH_EPS = 1e-7  # added to the depth before dividing by it
_DECIMALS = 4  # of an angle in degrees that is written down


@dataclass(frozen=True)
class Cameras:
    """T pinhole cameras that share one lens.

    World to camera, OpenCV axes: x right, y down, z forward. Integer pixel coordinates are pixel
    centres, so the principal point of a symmetric W x H image is ((W-1)/2, (H-1)/2).
    """

    viewmats: Tensor  # [T, 4, 4] float32, world -> camera, column vectors
    K: Tensor  # [3, 3] float32 pixels
    width: int
    height: int

    def __len__(self) -> int:
        """Return the number of cameras T."""
        return self.viewmats.shape[0]

    def to(self, device: torch.device | str) -> Cameras:
        """Return a copy on `device`."""
        return Cameras(self.viewmats.to(device), self.K.to(device), self.width, self.height)

    def __getitem__(self, index: slice) -> Cameras:
        """Return the cameras of a slice of frames."""
        return Cameras(self.viewmats[index], self.K, self.width, self.height)


@dataclass(frozen=True)
class Lens:
    """A pinhole lens without skew, independent of the number of pixels.

    A point of the camera with slopes x/z and y/z is at `scale * slope + offset` of an image that spans -1..1 from edge
    to edge, x right, y down.
    """

    scale_x: float  # 1 / tan of half the horizontal field of view, where the principal point is in the middle
    scale_y: float
    offset_x: float = 0.0  # of the principal point from the middle of the image
    offset_y: float = 0.0

    @staticmethod
    def of(K: Tensor, width: int, height: int) -> Lens:
        """Return the lens of `K` [3, 3], pixels of a `width` x `height` image with integer pixel centres.

        Raises:
            InputError: K is not finite, not [3, 3], or not a pinhole camera without skew.
        """
        rows = check_K(K).tolist()
        (fx, _, cx), (_, fy, cy), _ = rows
        return Lens(2 * fx / width, 2 * fy / height, (2 * cx - (width - 1)) / width, (2 * cy - (height - 1)) / height)

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """Return scale x, scale y, offset x, offset y."""
        return self.scale_x, self.scale_y, self.offset_x, self.offset_y


def lens_matrices(lenses: Tensor, width: int, height: int) -> Tensor:
    """Return K [..., 3, 3], pixels of a `width` x `height` image, of lenses [..., 4]: the numbers of `Lens`."""
    K = lenses.new_zeros(*lenses.shape[:-1], 3, 3)
    for k, size in enumerate((width, height)):
        K[..., k, k] = lenses[..., k] * size / 2
        K[..., k, 2] = (size - 1 + lenses[..., k + 2] * size) / 2
    K[..., 2, 2] = 1
    return K


def project_points(points: Tensor, viewmats: Tensor, lens: Lens | Tensor) -> Tensor:
    """Return image coordinates [B, n, 3] of world points [B, n, 3]: -1..1, x right, y down; the third is unused.

    lens: one for all, or [B, 4] the numbers of each camera's `Lens`.
    """
    with torch.autocast(points.device.type, enabled=False):
        camera = (F.pad(points, (0, 1), value=1.0) @ viewmats.transpose(1, 2))[..., :3]
        z = camera[..., 2] + _DEPTH_EPS
        scale_x, scale_y, offset_x, offset_y = lens[..., None].unbind(1) if isinstance(lens, Tensor) else lens.numbers
        x = camera[..., 0] * scale_x / z + offset_x
        y = camera[..., 1] * scale_y / z + offset_y
        return torch.stack([x, y, camera[..., 2] * scale_x / z], -1)


def check_K(K: Tensor) -> Tensor:
    """Return `K` as float32 on the CPU, if it is [3, 3], finite, without skew, with positive focal lengths.

    Raises:
        InputError: It is not.
    """
    found = K.detach().float().cpu() if isinstance(K, Tensor) else torch.as_tensor(K, dtype=torch.float32)
    if found.shape != (3, 3):
        raise InputError(f"lens: expected K of shape [3, 3], found {list(found.shape)}; check the camera's intrinsics")
    rows = found.tolist()
    fine = (
        bool(torch.isfinite(found).all()) and rows[0][0] > 0 and rows[1][1] > 0 and rows[2] == [0.0, 0.0, 1.0]
        and rows[0][1] == 0 and rows[1][0] == 0
    )  # fmt: skip
    if not fine:
        raise InputError(
            f"lens: expected K = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels with fx, fy > 0, found {rows}; "
            "check the camera's intrinsics"
        )
    return found


def resized_K(K: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Return `K` [3, 3] of the same lens for another number of pixels; sizes are (width, height).

    Both images span the same field of view from edge to edge, and integer pixel coordinates are pixel centres. Where
    both sizes are equal, the result is `K` itself.
    """
    if before == after:
        return K
    factor = [b / a for a, b in zip(before, after, strict=True)]
    (fx, _, cx), (_, fy, cy), _ = K.double().tolist()
    cx, cy = (cx + 0.5) * factor[0] - 0.5, (cy + 0.5) * factor[1] - 0.5
    return torch.tensor([[fx * factor[0], 0.0, cx], [0.0, fy * factor[1], cy], [0.0, 0.0, 1.0]])


def intrinsics(width: int, height: int, tanfov: float = TANFOV) -> Tensor:
    """Return K [3, 3] of a symmetric lens whose half field of view has tangent `tanfov` in both axes."""
    fx, fy = width / (2.0 * tanfov), height / (2.0 * tanfov)
    return torch.tensor([[fx, 0.0, (width - 1) / 2], [0.0, fy, (height - 1) / 2], [0.0, 0.0, 1.0]])


def tracked_cameras(viewmats: Tensor, size: int = 512, tanfov: float = TANFOV, *, K: Tensor | None = None) -> Cameras:
    """Return the tracker's own cameras, [T, 4, 4] or [4, 4] world -> camera, as Cameras of a `size` x `size` image.

    `K` [3, 3], any lens for that size, replaces `tanfov`; here and in the functions below.

    Raises:
        InputError: K is invalid.
    """
    viewmats = viewmats if viewmats.dim() == 3 else viewmats[None]
    return Cameras(viewmats.float(), _lens(size, tanfov, K), size, size)


def look_at(yaw: Tensor, pitch: Tensor, radius: Tensor, target: Tensor) -> Tensor:
    """Return [T, 4, 4] world -> camera of cameras on a sphere that look at a point.

    The world of the result is the tracked one (y down). Near a pole the result is ill-conditioned: expect noise of
    1e-4.

    Args:
        yaw: [T] radians, float64, absolute (the original's callers add their base angles first).
        pitch: [T] as `yaw`, clamped away from the poles and mapped by `arccos(1 - 2 pitch / pi)` to the polar angle.
        radius: [T] metres, float32, around the origin and not around the target.
        target: [T, 3] metres, y-up body frame.
    """
    # Angles are float64 up to here and float32 from here on, as in the original.
    h = yaw.to(torch.float32)
    v = pitch.clamp(PITCH_CLAMP, math.pi - PITCH_CLAMP).to(torch.float32)
    phi = torch.arccos(1 - 2 * (v / math.pi))
    theta = math.pi - h
    direction = torch.stack([phi.sin() * theta.cos(), phi.cos(), phi.sin() * theta.sin()], dim=-1)
    origin = radius.to(torch.float32)[:, None] * direction  # [T, 3], y up

    forward = torch.nn.functional.normalize(target.to(torch.float32) - origin, dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = -torch.nn.functional.normalize(torch.linalg.cross(up, forward), dim=-1)
    down = torch.nn.functional.normalize(torch.linalg.cross(forward, right), dim=-1)

    rotation = torch.stack([right, down, forward], dim=1)  # [T, 3, 3] rows: y-up world -> camera
    viewmats = torch.eye(4).repeat(len(h), 1, 1)
    viewmats[:, :3, 3] = -(rotation @ origin[..., None])[..., 0]
    viewmats[:, :3, :3] = rotation * torch.tensor([1.0, -1.0, -1.0])  # the tracked world is the y-up one turned over
    return viewmats


def fixed_camera(
    source_viewmat: Tensor,  # [4, 4]
    yaw: float,
    pitch: float,
    zoom: float,
    size: int = 512,
    tanfov: float = TANFOV,
    *,
    K: Tensor | None = None,  # [3, 3] any lens for this size, instead of `tanfov`
) -> Cameras:
    """Return one camera (T = 1) at a fixed viewpoint around the person of the source frame.

    yaw and pitch are the original's nominal numbers: `viewing_angles` gives the true ones (pitch -0.40 looks
    from 14.8 degrees above).

    Args:
        source_viewmat: [4, 4] world to camera of the source frame.
        yaw: Radians; positive moves the camera towards world +x (the person's left).
        pitch: Radians; positive LOWERS the camera.
        zoom: Factor on the distance of the source camera from the world origin, above 1 is farther away; through the
            original's lens, which is almost orthographic, the person appears 1/zoom as large.
        size: Side of the image in pixels.
        tanfov: Tangent of half the field of view.
        K: [3, 3] lens of the source camera for this size, instead of `tanfov`. The camera stands where the person is
            as large as in the source camera (at zoom 1), and looks with this lens's focal length.

    Raises:
        UsageError: zoom is not positive.
        InputError: The source camera is damaged.
    """
    nearness = _nearness(size, K)
    radius = _source_radius(source_viewmat, nearness) * _checked(yaw, pitch, zoom)
    return _cameras(_f64(BASE_YAW + yaw), _f64(BASE_PITCH + pitch), radius[None], size, tanfov, K, nearness)


def circle_cameras(
    source_viewmat: Tensor,  # [4, 4]
    yaw_range: float = 0.35,
    pitch_range: float = 0.3,
    zoom: float = 1.0,
    size: int = 512,
    tanfov: float = TANFOV,
    *,
    K: Tensor | None = None,  # [3, 3] any lens for this size, instead of `tanfov`
) -> Cameras:
    """Return 120 key frames of a circling camera: yaw_range * sin, pitch_range * cos (radians), constant distance."""
    nearness = _nearness(size, K)
    radius = _source_radius(source_viewmat, nearness) * _checked(yaw_range, pitch_range, zoom)
    wave = _key_angles()
    yaw, pitch = BASE_YAW + yaw_range * wave.sin(), BASE_PITCH + pitch_range * wave.cos()
    return _cameras(yaw, pitch, radius.repeat(len(wave)), size, tanfov, K, nearness)


def zoom_cameras(
    source_viewmat: Tensor,  # [4, 4]
    yaw_range: float = 0.35,
    pitch_range: float = 0.3,
    radius_range: float = 0.3,
    size: int = 512,
    tanfov: float = TANFOV,
    *,
    K: Tensor | None = None,  # [3, 3] any lens for this size, instead of `tanfov`
) -> Cameras:
    """Return 120 key frames of a circling camera with changing distance.

    The distance is multiplied by 1 + radius_range * sin; -1 < radius_range < 1.
    """
    _checked(yaw_range, pitch_range, 1.0 - abs(radius_range))
    wave = _key_angles()
    nearness = _nearness(size, K)
    radius = _source_radius(source_viewmat, nearness) * (1 + radius_range * wave.sin())
    yaw, pitch = BASE_YAW + yaw_range * wave.sin(), BASE_PITCH + pitch_range * wave.cos()
    return _cameras(yaw, pitch, radius, size, tanfov, K, nearness)


def world_view_transform(viewmats: Tensor) -> Tensor:
    """Return [..., 4, 4] for row vectors (`p_row @ M`), as the original stores it: the transpose of world -> camera."""
    return viewmats.transpose(-1, -2)


def projection_matrix(tanfov: float = TANFOV, near: float = NEAR, far: float = FAR) -> Tensor:
    """Return [4, 4] camera -> clip space, column vectors, depth 0..1 between near and far."""
    depth_scale = far / (far - near)
    return torch.tensor(
        [[1 / tanfov, 0, 0, 0], [0, 1 / tanfov, 0, 0], [0, 0, depth_scale, -near * depth_scale], [0, 0, 1, 0]],
        dtype=torch.float32,
    )


def full_proj_transform(viewmats: Tensor, tanfov: float = TANFOV) -> Tensor:
    """Return [..., 4, 4] world -> clip space for row vectors, as the original stores it."""
    return world_view_transform(viewmats) @ projection_matrix(tanfov).to(viewmats).T


def camera_center(viewmats: Tensor) -> Tensor:
    """Return camera positions [..., 3] in the world, metres: -R^T t."""
    return -(viewmats[..., :3, :3].transpose(-1, -2) @ viewmats[..., :3, 3:])[..., 0]


def _f64(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def _key_angles() -> Tensor:
    return torch.arange(KEY_FRAMES, dtype=torch.float64) * (2 * ORIGINAL_PI / KEY_FRAMES)


def _nearness(size: int, K: Tensor | None) -> float:
    """Return how much nearer a camera with the lens K stands than one with the original's, for a person as large."""
    return 1.0 if K is None else Lens.of(K, size, size).scale_y * TANFOV


def _source_radius(source_viewmat: Tensor, nearness: float) -> Tensor:
    """Return the distance of the source camera from the world origin, [] float32, metres.

    For a camera with a lens of its own: that of a camera with the original's lens for which the person is as large.
    """
    if source_viewmat.shape != (4, 4) or not bool(torch.isfinite(source_viewmat).all()):
        raise InputError(
            f"source camera: expected a finite 4x4 world-to-camera matrix, found shape {tuple(source_viewmat.shape)}"
            f"{'' if source_viewmat.shape != (4, 4) else ' with NaN or infinite values'}; check the tracked cameras"
        )
    center = camera_center(source_viewmat.detach().cpu().float())
    if nearness != 1:
        target = torch.tensor(LOOK_AT) * torch.tensor([1.0, -1.0, -1.0])  # in the tracked world
        center = target + (center - target) / nearness
    distance: Tensor = center.norm()
    return distance


def _checked(yaw: float, pitch: float, zoom: float) -> float:
    """Return `zoom` after checking all three values."""
    if not all(math.isfinite(x) for x in (yaw, pitch, zoom)) or zoom <= 0:
        raise UsageError(f"view: expected finite yaw and pitch (radians) and zoom > 0, found {yaw}, {pitch}, {zoom}")
    return zoom


def _cameras(
    yaw: Tensor, pitch: Tensor, radius: Tensor, size: int, tanfov: float, K: Tensor | None, nearness: float
) -> Cameras:
    """Return cameras by the original's rule; those with a lens of their own come nearer along their axis.

    So a view has the same direction and shows the person as large through any lens, with that lens's perspective. Its
    principal point is in the middle, as a camera that looks at the person has it: that of the clip is where its crop
    put it.
    """
    target = torch.tensor(LOOK_AT).expand(len(yaw), 3)
    viewmats = look_at(yaw, pitch, radius, target)
    if K is None:
        return Cameras(viewmats, intrinsics(size, size, tanfov), size, size)
    if nearness != 1:
        world = torch.tensor(LOOK_AT) * torch.tensor([1.0, -1.0, -1.0])
        viewmats[:, 2, 3] = nearness * (viewmats[:, 2, :3] @ world + viewmats[:, 2, 3]) - viewmats[:, 2, :3] @ world
    lens = check_K(K).clone()
    lens[0, 2] = lens[1, 2] = (size - 1) / 2
    return Cameras(viewmats, lens, size, size)


def _lens(size: int, tanfov: float, K: Tensor | None) -> Tensor:
    return intrinsics(size, size, tanfov) if K is None else check_K(K)


def viewing_angles(viewmats: Tensor) -> tuple[Tensor, Tensor]:
    """Return azimuth and elevation [...] in degrees, float64, of cameras [..., 4, 4] (world to camera).

    They are the direction of the camera from the point it looks at, along its axis. Azimuth: 0 in front of a person who
    faces the tracked camera (world -z), positive towards the person's left (world +x), -180..180. Elevation: positive
    if the camera is above and looks down, -90..90. World and camera axes are OpenCV's, y down.
    """
    axis = viewmats[..., 2, :3].double()  # the viewing direction in the world
    axis = axis / axis.norm(dim=-1, keepdim=True)
    azimuth = torch.atan2(-axis[..., 0], axis[..., 2])
    elevation = torch.asin(axis[..., 1].clamp(-1, 1))
    return torch.rad2deg(azimuth), torch.rad2deg(elevation)


def moves(cameras: Cameras) -> bool:
    """Return whether the camera changes between frames."""
    return bool((cameras.viewmats != cameras.viewmats[:1]).any())


def camera_facts(cameras: Cameras) -> dict[str, Any]:
    """Return the entries of a sidecar for cameras: azimuth, elevation, K [3, 3], viewmats [4, 4] or [T, 4, 4].

    For moving cameras viewmats are [T, 4, 4] and angles are lists of T. Numbers have as many digits as float32 needs
    for an exact round trip.
    """
    azimuth, elevation = (torch.round(a, decimals=_DECIMALS) + 0.0 for a in viewing_angles(cameras.viewmats))
    one = not moves(cameras)
    return {
        "azimuth": float(azimuth[0]) if one else azimuth.tolist(),
        "elevation": float(elevation[0]) if one else elevation.tolist(),
        "K": _numbers(cameras.K),
        "viewmats": _numbers(cameras.viewmats[0] if one else cameras.viewmats),
        "convention": CONVENTION,
    }


def _numbers(values: Tensor) -> Any:
    """Return nested lists of the shortest decimals that represent these float32 numbers."""
    array = values.detach().cpu().float().numpy()
    return np.array([float(str(v)) for v in array.ravel()]).reshape(array.shape).tolist()
