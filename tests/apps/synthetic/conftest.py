"""What the demo's tests share."""

from __future__ import annotations

import pytest

from guava_aug.apps.synthetic.bank import Bank


@pytest.fixture(scope="session")
def bare() -> Bank:
    """The shipped body alone; subjects made from it are painted."""
    return Bank.bare()
