"""What a run says of videos and names that it passes over."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes import FakeModel, write_clip
from guava_aug import augment


def test_what_is_passed_over_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "tracked"
    for name in ("a", "b", "half"):
        write_clip(root, name, frames=2)
    (root / "half" / "videos_info.json").unlink()
    (tmp_path / "map.csv").write_text("video,fps\na,10\nzzz,10\n")
    result = augment(root, tmp_path / "out", None, ["easy"], model=FakeModel(), time_map=tmp_path / "map.csv")
    assert [view.video for view in result.views] == ["a", "b"] and not result.failed
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "1 folder left out, having no videos_info.json (half copied?): half" in warnings
    assert f"time map {tmp_path / 'map.csv'}: no such video below {root}: zzz" in warnings
