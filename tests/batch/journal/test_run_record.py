"""The record of a run is strict JSON, whatever was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

from guava_aug.batch.journal.run_record import write_record


def test_numbers_that_json_lacks_are_null(tmp_path: Path):
    write_record(tmp_path / "run.json", {"psnr": [math.inf, 31.5], "train": {"minutes": math.inf, "loss": math.nan}})

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    record = json.loads((tmp_path / "run.json").read_text(), parse_constant=refuse)
    assert record["psnr"] == [None, 31.5] and record["train"] == {"minutes": None, "loss": None}
