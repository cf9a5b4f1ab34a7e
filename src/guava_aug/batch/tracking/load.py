"""What a tracking run loads once: nets and body, and the model where clips are fitted to their pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guava_aug.avatar.config import EMBEDDED
from guava_aug.batch.tracking.config import TrackConfig
from guava_aug.batch.validate import model_source
from guava_aug.errors import UsageError

if TYPE_CHECKING:
    from guava_aug.tracked.tracking import Tracker


def load_tracker(config: TrackConfig, device: str) -> Tracker:
    """Return the tracker that the flags ask for.

    Args:
        config: of the run.
        device: of torch.

    Raises:
        AssetError: body or nets are missing or damaged.
        UsageError: --body assets, but the model has none.
    """
    from guava_aug.avatar.model import load_body  # noqa: PLC0415 - imports torch, which is slow
    from guava_aug.tracked.tracking import Tracker  # noqa: PLC0415 - imports torch, which is slow

    source = body_source(config)
    if config.body == "assets" and source == EMBEDDED:
        raise UsageError(
            "--body assets: the embedded model has no SMPL-X and FLAME; give the official model with --model_path, "
            "and its assets with --guava_root"
        )
    name = "embedded" if source == EMBEDDED else "assets"
    if not wants_photometric(config, device):
        return Tracker(load_body(source, guava_root=config.guava_root), device, body_name=name)
    from guava_aug.avatar.model import load_model  # noqa: PLC0415 - as above
    from guava_aug.avatar.personalize.photometric import PhotometricFitter  # noqa: PLC0415 - as above

    model = load_model(source, device, guava_root=config.guava_root, precision="fp32")
    return Tracker(model.body, device, body_name=name, refiner=PhotometricFitter(model))


def body_source(config: TrackConfig) -> str:
    """Return the model whose body is fitted, and whose avatars clips are fitted to their pictures with."""
    return EMBEDDED if config.body == "embedded" else model_source(config)


def wants_photometric(config: TrackConfig, device: str) -> bool:
    """Return whether clips are fitted to their pictures on this device; --photometric auto: on a GPU."""
    return config.photometric == "on" or (config.photometric == "auto" and device.startswith("cuda"))
