"""The projected-texture mesh: it must be a strong baseline, so it is held to the source picture."""

from __future__ import annotations

import pytest
import torch

from guava_aug.apps.evaluation.crops import face_vertices, part_boxes
from guava_aug.apps.evaluation.mesh import ProjectedMesh, nearest
from guava_aug.apps.evaluation.metrics import psnr
from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.pairs import Subject, make_subject
from guava_aug.apps.synthetic.render import render_vertices
from guava_aug.body import EhmModel, load_body_file
from guava_aug.views import Cameras, fixed_camera, tracked_cameras

SIZE = 256


@pytest.fixture(scope="module")
def body() -> EhmModel:
    return EhmModel(load_body_file(default_body_path(), uv_size=64))


@pytest.fixture(scope="module")
def subject() -> Subject:
    return make_subject(Bank.bare(), 3, frames=30)


def drawn(subject: Subject, frame: int, camera: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    vertices = subject.person.skin.vertices(subject.model(subject.identity, subject.motion[frame : frame + 1]))
    rgb, alpha = render_vertices(vertices, subject.person.skin, subject.light, camera)
    return rgb + 0.5 * (1 - alpha), alpha


@pytest.fixture(scope="module")
def mesh(body: EhmModel, subject: Subject) -> ProjectedMesh:
    camera = tracked_cameras(subject.viewmat, SIZE)
    picture, alpha = drawn(subject, 0, camera)
    vertices = body(subject.identity, subject.motion[0:1]).vertices
    return ProjectedMesh.build(body, vertices, camera, picture[0], alpha[0])


def score(mesh: ProjectedMesh, body: EhmModel, subject: Subject, frame: int, camera: Cameras) -> tuple[float, float]:
    """PSNR of the person where the mesh covers it, and how much of it that is."""
    truth, alpha = drawn(subject, frame, camera)
    rgb, covered = mesh.render(body(subject.identity, subject.motion[frame : frame + 1]).vertices, camera)
    person = alpha[0, 0] > 0.99
    both = person & (covered[0, 0] > 0.99)
    return psnr(rgb[0], truth[0], both), float(both.sum() / person.sum())


def test_it_gives_the_source_picture_back(mesh, body, subject):
    decibel, share = score(mesh, body, subject, 0, tracked_cameras(subject.viewmat, SIZE))
    assert decibel > 35 and share > 0.95


def test_it_follows_the_motion_and_the_camera(mesh, body, subject):
    """In another pose and from the side it still is the person, better than the picture that does not move."""
    camera = fixed_camera(subject.viewmat, 0.35, 0.1, 1.0, SIZE)
    decibel, share = score(mesh, body, subject, 20, camera)
    truth, alpha = drawn(subject, 20, camera)
    still = psnr(drawn(subject, 0, tracked_cameras(subject.viewmat, SIZE))[0][0], truth[0], alpha[0, 0] > 0.99)
    assert decibel > 20 and share > 0.9
    assert decibel > still + 4


def test_what_the_source_does_not_show_has_the_colours_of_the_person(mesh, body, subject):
    """From behind: no hole, no plate, no colour that the source does not have."""
    assert torch.isfinite(mesh.fill).all() and mesh.fill.min() >= 0 and mesh.fill.max() <= 1
    camera = fixed_camera(subject.viewmat, 3.14, 0.0, 1.0, SIZE)
    rgb, alpha = mesh.render(body(subject.identity, subject.motion[0:1]).vertices, camera)
    inside = alpha[0, 0] > 0.99
    assert 0.05 < inside.float().mean() < 0.7
    seen = rgb[0][:, inside]
    source = mesh.rgba[0, :3, mesh.rgba[0, 3] > 0.99]
    assert (seen.mean(1) - source.mean(1)).abs().max() < 0.12
    assert seen.min() > source.min() - 0.02


def test_nearest_over_several_blocks():
    points = torch.rand(2500, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(nearest(points + 1e-6, points), torch.arange(2500))


def test_boxes_hold_the_face_and_the_hands(body, subject):
    posed = body(subject.identity, subject.motion[10:11])
    camera = tracked_cameras(subject.viewmat, SIZE)
    boxes = part_boxes(posed, face_vertices(body), camera)
    assert set(boxes) == {"face", "left_hand", "right_hand"}
    _, alpha = drawn(subject, 10, camera)
    for left, top, right, bottom in boxes.values():
        assert 0 <= left < right <= SIZE and 0 <= top < bottom <= SIZE
        assert abs((right - left) - (bottom - top)) <= 1  # square: none is cut by the border here
        assert alpha[0, 0, top:bottom, left:right].mean() > 0.25
    middle = lambda name: (boxes[name][0] + boxes[name][2]) / 2
    assert boxes["face"][3] < boxes["left_hand"][3] and middle("left_hand") > middle("right_hand")  # their left
    far = fixed_camera(subject.viewmat, 0.0, 0.0, 0.12, SIZE)
    assert len(part_boxes(posed, face_vertices(body), far)) < 3  # so near that parts leave the picture
