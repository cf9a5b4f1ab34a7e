"""How OpenMP's threads wait is set before torch is there, and only if the user has not said it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from guava_aug.runtime.openmp import SPINS, shorten_spin


@pytest.mark.parametrize(
    ("said", "expected"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None)],
    ids=["nothing", "spins", "policy"],
)
def test_the_user_goes_first(said: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", dict(said))
    shorten_spin()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


def test_it_is_said_before_torch_is_imported():
    program = """
import os, sys
from guava_aug import cli

def look(name, package):
    print("torch" in sys.modules, os.environ.get("GOMP_SPINCOUNT"))
    raise SystemExit(0)

cli.import_module = look
cli.main(["run"])
"""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["False", SPINS]
