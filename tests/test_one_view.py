"""How far a reader has to go: the files that one view on a CPU calls into, and the types its result has on its way."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType

import guava_aug
from fakes import write_clip
from guava_aug import augment
from tiny_model import write_tiny_model

PACKAGE = Path(guava_aug.__file__).parent
FILES = 75  # found in a fresh process; fewer where other tests have imported and cached: lower it, never raise it
WHERE_RESULTS_ARE = (
    "view_writer.py",
    "results.py",
    "history.py",
    "manifest.py",
    "params_log.py",
)  # where results could be recast


def test_one_view_calls_into_few_files_and_its_result_is_recast_twice(tmp_path: Path) -> None:
    write_clip(tmp_path / "tracked", "clip", frames=2)
    model = write_tiny_model(tmp_path / "tiny.safetensors")
    files: set[str] = set()
    made: set[str] = set()  # classes of which an instance was made for the result of the view

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        file = code.co_filename
        if file.startswith(str(PACKAGE)):
            if code.co_name != "<module>":  # imported only
                files.add(file)
        elif code.co_name == "__init__" and file == "<string>":  # of a dataclass
            kind = type(frame.f_locals["self"])
            if str(getattr(sys.modules[kind.__module__], "__file__", "")).endswith(WHERE_RESULTS_ARE):
                made.add(kind.__name__)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        result = augment(tmp_path / "tracked", tmp_path / "out", ["clip"], ["easy"], model_path=model, device="cpu")
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    (view,) = result.views
    assert view.status == "success", view.error
    names = sorted(str(Path(file).relative_to(PACKAGE)) for file in files)
    assert 40 < len(names) <= FILES, "\n".join(names)
    # the writer's ViewEnd becomes the ViewRecord, and that a line of the journal: twice
    assert type(view).__name__ == "ViewRecord"
    others = {"ViewWriter", "ViewWriters", "ViewTarget", "ViewHistory"}  # make the files; hold lines of the journal
    assert {kind for kind in made if kind.startswith("View")} - others == {"ViewEnd", "ViewRecord"}
