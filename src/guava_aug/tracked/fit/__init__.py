"""From the landmarks of a clip to the parameters of the body: `ClipFitter.fit`."""

from guava_aug.tracked.fit.clip import ClipFit, ClipFitter, Crop, crop_K, format_lens, framing
from guava_aug.tracked.fit.problem import Lens
from guava_aug.tracked.fit.quality import FitQuality

__all__ = ["ClipFit", "ClipFitter", "Crop", "FitQuality", "Lens", "crop_K", "format_lens", "framing"]
