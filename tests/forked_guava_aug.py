"""`guava-aug` with the fake model, again and again without the seconds that imports take: each run is a fork of this.

Standard input: a JSON list per line, [seconds per frame, arguments]. Standard output: the run's process number, and
when it has ended its exit code, negative for a signal.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pyarrow.parquet  # noqa: F401

import guava_aug.avatar.model
import guava_aug.batch.executors.in_process
import guava_aug.batch.pipeline
import guava_aug.batch.run
import guava_aug.cli.run
import guava_aug.cli.terminal
import guava_aug.render.rasterize
import guava_aug.tracked
from fakes import FakeModel
from guava_aug.cli import main


def _load(seconds: float, *args: object, **kwargs: object) -> FakeModel:
    return FakeModel(seconds)


if __name__ == "__main__":
    guava_aug.batch.validate.cached_weights_digest = lambda *args: "fake"  # type: ignore[assignment]
    for line in sys.stdin:
        seconds, arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(nowhere, stream)
            guava_aug.avatar.model.load_model = partial(_load, seconds)  # type: ignore[assignment]
            os._exit(main(arguments))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
