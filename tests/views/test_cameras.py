"""Cameras against the recorded ones, and what must hold for any camera."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guava_aug.errors import InputError, UsageError
from guava_aug.views.cameras import (
    KEY_FRAMES,
    camera_center,
    circle_cameras,
    fixed_camera,
    full_proj_transform,
    intrinsics,
    look_at,
    projection_matrix,
    tracked_cameras,
    world_view_transform,
    zoom_cameras,
)

RTOL = 2e-5  # relative to the largest entry (translations are about 22 m), as the golden README says
yaws = st.floats(-1.2, 1.2)
pitches = st.floats(-1.0, 1.0)
zooms = st.floats(0.3, 3.0)


def source(x=0.4, y=-1.5, z=-22.0):
    """A tracked-like camera whose centre is (x, y, z)."""
    viewmat = torch.eye(4)
    viewmat[:3, 3] = -torch.tensor([x, y, z])
    return viewmat


def assert_close(found, expected, rtol=RTOL):
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=rtol * np.abs(expected).max())


@pytest.fixture(scope="module")
def recorded(golden):
    return np.load(golden / "cameras.npz")


def assert_like_recorded(cameras, recorded, kind, i):
    assert_close(world_view_transform(cameras.viewmats), recorded[f"{kind}_world_view_transform_{i}"])
    assert_close(full_proj_transform(cameras.viewmats), recorded[f"{kind}_full_proj_transform_{i}"])
    assert_close(camera_center(cameras.viewmats), recorded[f"{kind}_camera_center_{i}"])


@pytest.mark.parity
@pytest.mark.parametrize("i", range(3))
def test_tracked_cameras_match_the_original(recorded, i):
    viewmat = torch.from_numpy(recorded[f"tracked_w2c_{i}"])
    cameras = tracked_cameras(viewmat)
    assert_close(world_view_transform(cameras.viewmats)[0], recorded[f"tracked_view_{i}"])
    assert_close(full_proj_transform(cameras.viewmats)[0], recorded[f"tracked_full_proj_{i}"])
    assert_close(camera_center(cameras.viewmats)[0], recorded[f"tracked_center_{i}"])
    assert_close(projection_matrix(), recorded["proj_matrix"])


@pytest.mark.parity
@pytest.mark.parametrize("i", range(3))
def test_fixed_cameras_match_the_original(recorded, i):
    viewmat = torch.from_numpy(recorded[f"tracked_w2c_{i}"])
    for k, (yaw, pitch, zoom) in enumerate(recorded["fixed_params"]):
        found = fixed_camera(viewmat, yaw, pitch, zoom).viewmats[0]
        assert_close(world_view_transform(found), recorded[f"fixed_world_view_transform_{i}"][k])
        assert_close(full_proj_transform(found), recorded[f"fixed_full_proj_transform_{i}"][k])
        assert_close(camera_center(found), recorded[f"fixed_camera_center_{i}"][k])


@pytest.mark.parity
@pytest.mark.parametrize("i", range(3))
def test_moving_cameras_match_the_original(recorded, i):
    viewmat = torch.from_numpy(recorded[f"tracked_w2c_{i}"])
    assert_like_recorded(circle_cameras(viewmat), recorded, "circle", i)
    assert_like_recorded(zoom_cameras(viewmat), recorded, "zoom", i)


@pytest.mark.parity
def test_look_at_matches_the_original(recorded):
    rows = torch.from_numpy(recorded["lookat_params"])
    found = look_at(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3:])
    for k in range(len(rows)):
        near_pole = k == 3  # v = 0: near-degenerate, the recorded values carry noise of 1e-4
        assert_close(found[k], recorded["lookat_w2c"][k], 1e-4 if near_pole else RTOL)
        assert_close(torch.linalg.inv(found[k]), recorded["lookat_c2w"][k], 1e-4 if near_pole else RTOL)


@given(yaws, pitches, zooms)
@settings(max_examples=50, deadline=None)
def test_camera_is_rigid_and_at_the_zoomed_distance(yaw, pitch, zoom):
    viewmat = fixed_camera(source(), yaw, pitch, zoom).viewmats[0]
    rotation, translation = viewmat[:3, :3].double(), viewmat[:3, 3].double()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.double), atol=2e-6, rtol=0)
    assert torch.linalg.det(rotation).item() == pytest.approx(1.0, abs=2e-6)
    torch.testing.assert_close(camera_center(viewmat).double(), -rotation.T @ translation, atol=1e-4, rtol=0)
    radius = camera_center(source()).norm() * zoom
    assert camera_center(viewmat).norm().item() == pytest.approx(radius.item(), rel=1e-5)


@given(yaws, pitches, zooms)
@settings(max_examples=50, deadline=None)
def test_camera_looks_at_the_chest_and_stands_upright(yaw, pitch, zoom):
    viewmat = fixed_camera(source(), yaw, pitch, zoom).viewmats[0]
    target = viewmat @ torch.tensor([0.0, -0.75, 0.0, 1.0])  # tracked world: y down
    assert target[:2].abs().max() < 1e-4 * target[2]
    assert target[2] > 0
    assert abs(viewmat[0, 1].item()) < 1e-5  # the image's x axis is level


@given(yaws, pitches, st.floats(0.01, 0.3))
@settings(max_examples=50, deadline=None)
def test_signs_of_yaw_and_pitch(yaw, pitch, step):
    here = camera_center(fixed_camera(source(), yaw, pitch, 1.0).viewmats[0])
    turned = camera_center(fixed_camera(source(), yaw + step, pitch, 1.0).viewmats[0])
    lowered = camera_center(fixed_camera(source(), yaw, pitch + step, 1.0).viewmats[0])
    assert turned[0] > here[0]
    assert lowered[1] > here[1]  # y points down in the tracked world


def test_zero_parameters_look_from_the_front():
    center = camera_center(fixed_camera(source(0, 0, -22), 0, 0, 1).viewmats[0])
    assert center[2] < -21.9
    assert center[1].item() == pytest.approx(-0.711, abs=2e-3)


def test_moving_cameras_have_one_period_of_key_frames():
    circle, zoomed = circle_cameras(source()), zoom_cameras(source(), radius_range=0.3)
    assert len(circle) == len(zoomed) == KEY_FRAMES
    radius = camera_center(source()).norm()
    torch.testing.assert_close(camera_center(circle.viewmats).norm(dim=-1), radius.repeat(KEY_FRAMES))
    distances = camera_center(zoomed.viewmats).norm(dim=-1) / radius
    assert distances.min().item() == pytest.approx(0.7, abs=1e-3)
    assert distances.max().item() == pytest.approx(1.3, abs=1e-3)


def test_intrinsics_follow_the_image_size():
    cameras = fixed_camera(source(), 0, 0, 1, size=256)
    assert (cameras.width, cameras.height) == (256, 256)
    assert cameras.K.tolist() == [[24 * 128, 0, 127.5], [0, 24 * 128, 127.5], [0, 0, 1]]


@pytest.mark.parametrize("params", [(0, 0, 0), (0, 0, -1), (math.nan, 0, 1), (0, math.inf, 1)])
def test_impossible_views_are_refused(params):
    with pytest.raises(UsageError, match="zoom > 0"):
        fixed_camera(source(), *params)


@pytest.mark.parametrize("viewmat", [torch.eye(3), torch.full((4, 4), math.nan)])
def test_bad_source_cameras_are_refused(viewmat):
    with pytest.raises(InputError, match="4x4"):
        fixed_camera(viewmat, 0, 0, 1)


NEAR = 1.3  # metres from the camera to the look-at point


def _near_source(size: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """A camera 1.3 m in front of the look-at point, and its lens: a crop beside the optical axis."""
    viewmat = torch.eye(4)
    viewmat[1, 3], viewmat[2, 3] = 0.75, NEAR
    return viewmat, torch.tensor([[600.0, 0, 200.0], [0, 600.0, 310.0], [0, 0, 1]])


@pytest.mark.parametrize("yaw, pitch", [(0.0, 0.0), (0.35, -0.2), (-0.5, 0.4)])
@pytest.mark.parametrize("zoom", [0.8, 1.0, 1.4])
def test_a_near_camera_turns_around_the_person(yaw: float, pitch: float, zoom: float) -> None:
    """Through a lens of its own a view has the true angles of the original's, and the person's size at zoom 1."""
    viewmat, K = _near_source()
    near = fixed_camera(viewmat, yaw, pitch, zoom, K=K)
    far_source = torch.eye(4)
    far_source[1, 3], far_source[2, 3] = 0.75, NEAR * 24 * 256 / 600
    far = fixed_camera(far_source, yaw, pitch, zoom)
    torch.testing.assert_close(near.viewmats[:, :3, :3], far.viewmats[:, :3, :3], atol=1e-5, rtol=0)
    target = torch.tensor([0.0, -0.75, 0.0])
    seen = near.viewmats[0, :3, :3] @ target + near.viewmats[0, :3, 3]
    torch.testing.assert_close(seen[:2], torch.zeros(2), atol=2e-4, rtol=0)  # in the middle of the picture
    assert float(seen[2]) == pytest.approx(zoom * NEAR, rel=0.05)
    assert near.K.tolist() == [[600, 0, 255.5], [0, 600, 255.5], [0, 0, 1]]


def test_the_formats_lens_given_is_the_formats_lens_in_views() -> None:
    source = torch.eye(4)
    source[0, 3], source[1, 3], source[2, 3] = 0.1, 0.7, 21.0
    for make in (fixed_camera, circle_cameras, zoom_cameras):
        plain = make(source, 0.3, 0.2, 0.9)
        given = make(source, 0.3, 0.2, 0.9, K=intrinsics(512, 512))
        assert torch.equal(plain.viewmats, given.viewmats) and torch.equal(plain.K, given.K)
