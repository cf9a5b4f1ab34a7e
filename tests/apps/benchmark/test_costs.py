"""Extrapolation: what is measured stays, the rest follows from it, and both are told apart."""

from __future__ import annotations

import pytest

from guava_aug.apps.benchmark.costs import WANTED, batch_costs, subprocess_costs


def test_subprocess_mode_is_so_many_processes():
    costs = subprocess_costs({1: 11.0, 3: 30.0}, loading=4.0)
    assert [c.views for c in costs] == list(WANTED)
    assert [c.measured for c in costs] == [True, True, False, False, False]
    assert [c.seconds for c in costs] == [11.0, 30.0, 100.0, 500.0, 1000.0]  # by the largest measured: 10 s each
    assert [c.without_loading for c in costs] == [7.0, 18.0, 60.0, 300.0, 600.0]


def test_batch_mode_is_one_start_and_a_little_for_each_view():
    costs = batch_costs({1: 20.0, 3: 22.0}, loading=5.0, marginal=1.0, again=0.0, group=16)
    assert [c.seconds for c in costs] == [20.0, 22.0, 29.0, 69.0, 119.0]
    assert [c.without_loading for c in costs] == [15.0, 17.0, 24.0, 64.0, 114.0]
    assert [c.measured for c in costs] == [True, True, False, False, False]


@pytest.mark.parametrize(("views", "groups"), [(16, 0), (17, 1), (32, 1), (33, 2), (100, 6)])
def test_every_further_group_reads_the_video_again(views: int, groups: int):
    (_, cost) = batch_costs({3: 0.0}, loading=0.0, marginal=0.0, again=1.0, group=16, wanted=[views])
    assert cost.seconds == groups


def test_measured_numbers_that_were_not_asked_for_have_rows_too():
    costs = batch_costs({7: 9.0, 20: 30.0}, loading=1.0, marginal=1.0, again=0.0, group=100)
    assert {c.views for c in costs} == {*WANTED, 7, 20}
    assert next(c for c in costs if c.views == 1).seconds == 3.0  # downwards from the least
    assert next(c for c in costs if c.views == 50).seconds == 60.0  # upwards from the nearest


def test_without_loading_is_never_negative():
    assert subprocess_costs({1: 1.0}, loading=2.0)[0].without_loading == 0
