"""True angles of cameras, and cameras as they are written down."""

from __future__ import annotations

import json

import pytest
import torch

from guava_aug.output.metadata import compact_facts, expanded_facts
from guava_aug.views import View, viewing_angles
from guava_aug.views.cameras import camera_facts

SOURCE = torch.eye(4)
SOURCE[2, 3] = 22.0


def angles(yaw: float, pitch: float, zoom: float = 1.0) -> tuple[float, float]:
    azimuth, elevation = viewing_angles(View("hard", 0, 0, yaw, pitch, zoom).cameras(SOURCE, 1).viewmats)
    return float(azimuth[0]), float(elevation[0])


@pytest.mark.parametrize(("pitch", "elevation"), [(-0.40, 14.8), (0.40, -14.7), (0.0, -0.1)])
def test_negative_pitch_looks_from_above_and_less_than_its_number(pitch: float, elevation: float) -> None:
    assert angles(0.0, pitch)[1] == pytest.approx(elevation, abs=0.05)


def test_positive_yaw_is_the_persons_left() -> None:
    assert angles(0.30, 0.0)[0] == pytest.approx(17.1, abs=0.1)
    assert angles(-0.30, 0.0)[0] == pytest.approx(-17.2, abs=0.1)


def test_angles_are_those_of_the_line_from_camera_to_look_at_point() -> None:
    """Put a camera somewhere on a sphere, by angles, and find the angles again."""
    for azimuth in (-170.0, -30.0, 0.0, 75.0):
        for elevation in (-60.0, 0.0, 35.0):
            a, e = torch.deg2rad(torch.tensor([azimuth, elevation], dtype=torch.float64))
            outward = torch.stack([e.cos() * a.sin(), -e.sin(), -e.cos() * a.cos()])  # world: y down, front is -z
            forward = -outward
            right = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), forward)
            right = right / right.norm()
            viewmat = torch.eye(4, dtype=torch.float64)
            viewmat[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
            found = viewing_angles(viewmat)
            assert [float(x) for x in found] == pytest.approx([azimuth, elevation], abs=1e-6)


def test_a_camera_is_written_down_exactly() -> None:
    cameras = View("hard", 0, 0, 0.31, -0.2, 1.2).cameras(SOURCE, 4)
    facts = json.loads(json.dumps(camera_facts(cameras)))
    assert torch.equal(torch.tensor(facts["K"]), cameras.K)  # [3, 3]
    assert torch.equal(torch.tensor(facts["viewmats"]), cameras.viewmats[0])  # [4, 4]
    assert "world to camera" in facts["convention"] and "OpenCV" in facts["convention"]
    row = expanded_facts(compact_facts(facts))
    assert torch.equal(torch.tensor(row["K"]).view(3, 3), cameras.K)
    assert torch.equal(torch.tensor(row["viewmat"]).view(4, 4), cameras.viewmats[0])
    assert (row["azimuth"], row["elevation"]) == (facts["azimuth"], facts["elevation"])


def test_a_moving_camera_is_written_down_frame_by_frame() -> None:
    cameras = View("easy", 0, 0, 0.3, 0.2, 1.0, "circle").cameras(SOURCE, 7)
    facts = camera_facts(cameras)
    assert torch.equal(torch.tensor(facts["viewmats"]), cameras.viewmats)  # [T, 4, 4]
    assert len(facts["azimuth"]) == len(facts["elevation"]) == 7
    assert expanded_facts(compact_facts(facts)) == dict.fromkeys(("azimuth", "elevation", "K", "viewmat"))
    assert expanded_facts({}) == dict.fromkeys(("azimuth", "elevation", "K", "viewmat"))
