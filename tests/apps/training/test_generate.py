"""Generated subjects behind true lenses and with a tracker's errors."""

import numpy as np
import pytest
import torch

from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.scene import tracked_camera
from guava_aug.apps.training.data import PersonViews, format_lenses
from guava_aug.apps.training.generate import Cast, Realism, cast_person, person_views, through_lens

_SIZE = 96


@pytest.fixture(scope="module")
def bank() -> Bank:
    return Bank.bare()


@pytest.fixture(scope="module")
def cast(bank) -> Cast:
    return cast_person(bank, 4, 4, [4])


def _views(bank, body, cast, **shares) -> PersonViews:
    return person_views(bank.model, body, cast, 2, 2, _SIZE, 1, Realism(**shares))


def _overlap(views: PersonViews) -> torch.Tensor:
    """Return [n] the share of the given body's vertices in the picture that lie on the person."""
    p = views.vertices @ views.viewmats[:, :3, :3].transpose(1, 2) + views.viewmats[:, None, :3, 3]
    xy = p[..., :2] / p[..., 2:] * views.lenses[:, None, :2] + views.lenses[:, None, 2:]
    alpha = torch.nn.functional.grid_sample(views.images[:, 3:].float() / 255, xy[:, None], align_corners=False)[
        :, 0, 0
    ]
    inside = (xy.abs() < 0.97).all(-1)
    return (alpha * inside).sum(1) / inside.sum(1)


@pytest.mark.thorough
def test_lens_and_errors_are_chosen_apart_and_pictures_show_the_truth(bank, body, cast):
    exact = person_views(bank.model, body, cast, 2, 2, _SIZE, 1)
    wrong = _views(bank, body, cast, tracker_errors=1.0)
    near = _views(bank, body, cast, lenses=1.0)
    both = _views(bank, body, cast, lenses=1.0, tracker_errors=1.0)
    assert torch.equal(exact.lenses, format_lenses(4)) and torch.equal(wrong.lenses, exact.lenses)
    assert torch.equal(wrong.images, exact.images) and torch.equal(wrong.boxes, exact.boxes)  # of the true body
    assert torch.equal(both.images, near.images)
    assert torch.equal(near.vertices, exact.vertices)
    for given in (wrong, both):
        moved = (given.vertices - exact.vertices).norm(dim=-1).mean(1)
        assert float(moved.min()) > 0.005 and float(moved.max()) < 0.1
        assert not torch.equal(given.seen[:2], exact.seen[:2])
    assert not torch.equal(near.images, exact.images)
    for views in (exact, wrong, near, both):
        assert _overlap(views).min() > 0.85
        assert views.seen[:2].any(1).all() and not views.seen[2:].any()


def test_a_lens_frames_the_person_as_the_format_s_does():
    """At the depth of the body's middle, up to where its principal point lies."""
    base, rng = tracked_camera(7), np.random.default_rng(2)
    points = torch.tensor([[0.0, -0.75, 0.0], [0.3, -1.1, 0.0], [-0.2, -0.4, 0.0]])
    fields = []
    for _ in range(40):
        viewmat, lens = through_lens(base, rng)
        seen = [
            p[:, :2] / p[:, 2:] * n[:2] + n[2:]
            for m, n in ((base, format_lenses(1)[0]), (viewmat, lens))
            for p in [points @ m[:3, :3].T + m[:3, 3]]
        ]
        torch.testing.assert_close(seen[1], seen[0], atol=1e-4, rtol=0)
        fields.append(2 * float(torch.rad2deg(torch.atan(1 / lens[0]))))
    assert min(fields) >= 4.79 and max(fields) <= 65.01 and max(fields) > 40 and min(fields) < 8
