"""Landmarks of one person over a clip: pose, hands, face and irises, found by small convolutional nets.

`detect` is the entry point. The nets are those of mediapipe 0.10.21 (Apache-2.0); the graph around them, which says
where each net looks, is written here after MediaPipe's published graphs (Holistic).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guava_aug.runtime.imports import lazy_attributes

if TYPE_CHECKING:
    from guava_aug.tracked.detect.detect import detect
    from guava_aug.tracked.detect.landmarks import Landmarks

__all__ = ["Landmarks", "detect"]

__getattr__ = lazy_attributes(__name__, {"Landmarks": "landmarks", "detect": "detect"})
