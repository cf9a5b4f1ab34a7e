"""The calibration on another body: other numbering, another mean shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from perfect import fitter

from guava_aug.tracked.fit.calibration import Calibration
from guava_aug.tracked.fit.carry import calibration_for, carried


@pytest.mark.slow
@pytest.mark.thorough
def test_face_landmarks_find_their_places_on_another_head() -> None:
    own = fitter().model.assets
    calibration = Calibration.load()
    g = torch.Generator().manual_seed(3)
    shape = torch.randn(own.head.shapedirs.shape[-1], generator=g) * 0.5
    order = torch.randperm(len(own.head.v_template), generator=g)
    h = own.head
    head = replace(
        h, v_template=(h.v_template + h.shapedirs @ shape)[order], shapedirs=h.shapedirs[order],
        exprdirs=h.exprdirs[order], lbs_weights=h.lbs_weights[order], J_regressor=h.J_regressor[:, order],
    )  # fmt: skip
    other = replace(own, head=head, head_to_body=own.head_to_body[order])
    found = carried(calibration, own, other)
    expected = (
        (h.v_template + h.shapedirs @ shape).double()[calibration.face_vertices] * calibration.face_weights[..., None]
    ).sum(1)
    at = (head.v_template.double()[found.face_vertices] * found.face_weights[..., None]).sum(1)
    apart = (at - expected).norm(dim=1) * 1e3
    assert apart.median() < 3, apart.median()
    assert apart.quantile(0.95) < 8, apart.quantile(0.95)
    assert (found.expression_covariance[:50, :50] == torch.eye(50)).all()


def test_the_embedded_body_has_the_calibration_itself() -> None:
    calibration = Calibration.load()
    assert calibration_for(fitter().model.assets, calibration) is calibration
