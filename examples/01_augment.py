"""Re-render tracked videos from new cameras: the whole job in three lines of Python.

python examples/01_augment.py --tracked-root tracked --output augmented
Without arguments it takes the clips and the model that ship with the package.
"""

from __future__ import annotations

from pathlib import Path

import tyro

from guava_aug import augment
from guava_aug.apps.synthetic import demo_root

CLIPS = demo_root()


def main(
    tracked_root: Path = CLIPS,
    output: Path = Path("augmented"),
    difficulties: tuple[str, ...] = ("easy", "hard"),
    model_path: Path | None = None,
) -> None:
    result = augment(tracked_root, output, difficulties=difficulties, model_path=model_path)
    for view in result.views:
        print(f"{view.video} {view.label}: {view.status} {view.error or view.path}")


if __name__ == "__main__":
    tyro.cli(main)
