"""Fills the pool that a training run draws from, and checks that network, body model and pool fit each other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.training.data import PersonViews, Pool
from guava_aug.apps.training.from_tracked import video_views
from guava_aug.avatar.config import ModelConfig
from guava_aug.body import EhmAssets, EhmModel, load_body_file, load_official_assets
from guava_aug.errors import AssetError, InputError, UsageError
from guava_aug.runtime.saved_tensors import load_tensors
from guava_aug.tracked import TrackedVideo, list_videos

log = logging.getLogger(__name__)


def load_body(path: Path | None, uv_size: int) -> EhmAssets:
    """Return the body model of a `.npz`, or of a folder with SMPLX/ and FLAME/; None: the free one."""
    if path is None:
        return load_body_file(default_body_path(), uv_size)
    if not path.is_dir():
        return load_body_file(path, uv_size)
    root = path if (path / "SMPLX").is_dir() or not (path / "assets").is_dir() else path / "assets"
    return load_official_assets(root, uv_size)


def add_videos(
    pool: Path, tracked_root: Path, names: Sequence[str], assets: EhmAssets, frames: int, size: int
) -> list[str]:
    """Put tracked videos into the pool, one file each; existing ones are kept. Return the names left out.

    names: none means all below `tracked_root`. frames: pictures taken of each video. size: their side, pixels.
    """
    names = list(names) or list_videos(tracked_root)
    if not names:
        raise InputError(f"{tracked_root} holds no tracked video; `guava-aug check {tracked_root}` says what is there")
    pool.mkdir(parents=True, exist_ok=True)
    body, left_out = EhmModel(assets), []
    for i, name in enumerate(names):
        file = pool / f"person_{name}.npz"
        if file.exists():
            log.info("%d of %d, %s: in the pool already", i + 1, len(names), name)
            continue
        try:
            video = TrackedVideo.open(tracked_root, name)
            _check_video(video, assets)
            views = video_views(video, body, frames, size)
        except InputError as error:
            log.error("%d of %d, %s left out: %s", i + 1, len(names), name, error)
            left_out.append(name)
            continue
        views.save(file)
        log.info("%d of %d, %s: %d pictures", i + 1, len(names), name, len(views.images))
    return left_out


def _check_video(video: TrackedVideo, assets: EhmAssets) -> None:
    used = assets.body.shapedirs.shape[-1]
    if video.identity.betas[used:].any():
        raise InputError(
            f"it has shape coefficients beyond the {used} of the body model in use, so it was tracked with another; "
            "give that one: --body (for SMPL-X the folder with SMPLX/ and FLAME/)"
        )
    if video.num_frames < 2:
        raise InputError("it has 1 frame; expected at least 2: one to see, another to predict")


def check_pool(pool: Pool, config: ModelConfig, assets: EhmAssets, targets: int) -> None:
    """Raise InputError when the pool's subjects cannot be trained on with this configuration and body model."""
    check_person(pool.subjects[0], config, assets, f"the subjects in {pool.folder}")
    fewest = min(len(p.images) for p in pool.subjects)
    if fewest < targets + 1:
        raise InputError(
            f"{pool.folder}: a person has {fewest} pictures; expected one source and {targets} others; "
            "prepare more pictures per person, or lower --targets"
        )


def check_person(person: PersonViews, config: ModelConfig, assets: EhmAssets, who: str) -> None:
    """Raise InputError when pictures or body of one person are not of the run's sizes."""
    size, vertices = person.images.shape[-1], person.vertices.shape[1]
    if size != config.image_size:
        raise InputError(
            f"{who} have pictures of {size} pixels; this configuration needs {config.image_size}: prepare them again"
        )
    if vertices != len(assets.body.v_template):
        raise InputError(
            f"{who} were posed with a body model of {vertices} vertices; this run's has "
            f"{len(assets.body.v_template)}: give the same --body, or prepare them again"
        )


def read_encoder(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a pre-trained DINOv2 ViT, as its authors publish them (a dictionary saved with torch).

    Raises AssetError when the file is something else or has other sizes than `expected`.
    """
    try:
        state = load_tensors(path)
        different = sorted(k for k in expected if k not in state or state[k].shape != expected[k].shape)
        unknown = sorted(state.keys() - expected.keys())
    except Exception as error:  # also of what is no dictionary of tensors
        raise AssetError(f"cannot read the encoder {path}: {str(error).splitlines()[0]}") from error
    if different or unknown:
        raise AssetError(
            f"the encoder {path} does not fit the configuration ({len(different)} weights are missing or have other "
            f"sizes, {len(unknown)} are unknown, such as {(different + unknown)[0]}); --config official takes DINOv2's "
            "ViT-B/14 without registers (dinov2_vitb14_pretrain.pth)"
        )
    return {k: state[k].float() for k in expected}


def check_subjects_count(subjects: int, seeds: range) -> None:
    """Raise UsageError when there are not as many synthetic subjects to train on."""
    if not 1 <= subjects <= len(seeds):
        raise UsageError(
            f"--subjects is {subjects}; expected 1 to {len(seeds)} (seeds from {seeds.stop} on are held out)"
        )
