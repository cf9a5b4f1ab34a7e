"""`guava-aug` with the fake model, as a process of its own: python fake_guava_aug.py SECONDS_PER_FRAME ARGUMENT..."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import guava_aug.avatar.model
import guava_aug.batch.executors.in_process
from fakes import FakeModel
from guava_aug.cli import main

if __name__ == "__main__":
    seconds = float(sys.argv[1])
    guava_aug.avatar.model.load_model = lambda *args, **kwargs: FakeModel(seconds)  # type: ignore[assignment]
    guava_aug.batch.validate.cached_weights_digest = lambda *args: "fake"  # type: ignore[assignment]
    raise SystemExit(main(sys.argv[2:]))
