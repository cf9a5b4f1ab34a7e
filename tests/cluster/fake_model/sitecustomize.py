"""Gives every Python process that has this folder in PYTHONPATH the fake model of the tests.

GUAVA_AUG_FAKE: JSON with `seconds` per frame, and faults: {"die": video} ends the process when it renders that video,
{"die_once": [video, file]} only until the file is there, {"hang": video} never ends, {"full_after": [views, file]}
lets the disk be full, {"cuda_error": video} fails as a broken GPU does.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
from pathlib import Path


class _Fake(importlib.abc.MetaPathFinder):
    """Finds guava_aug.avatar.model as ever, and changes it once it is there."""

    def find_spec(self, name, path=None, target=None):
        if name != "guava_aug.avatar.model":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_and_change(module):
            execute(module)
            sys.path.insert(0, str(Path(__file__).parent.parent.parent))
            from cluster.faulty import faulty_model

            module.load_model = lambda *args, **kwargs: faulty_model(json.loads(os.environ["GUAVA_AUG_FAKE"]))

        spec.loader.exec_module = exec_and_change
        return spec


if "GUAVA_AUG_FAKE" in os.environ:
    sys.meta_path.insert(0, _Fake())
