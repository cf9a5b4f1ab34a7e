"""The fitted avatars of a run (`--personalize`): whether there are any, where they lie, and who makes them.

An avatar is made once per video and settings, by whichever process needs it first; the others wait for its file
(`runtime.lock_file`). The file is written in one step, so that it is whole or not there, and pictures are always made
of what it holds: in the run that fitted it as in all later ones.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guava_aug.batch.config import PersonalizeName, RunConfig
from guava_aug.batch.fingerprint import AVATAR_VERSION, input_digest
from guava_aug.batch.journal.history import History
from guava_aug.errors import AssetError, InputError, OutputError, UsageError
from guava_aug.runtime.atomic import remove_stale_files
from guava_aug.runtime.files import is_there
from guava_aug.runtime.lock_file import lock_file
from guava_aug.runtime.shutdown import Check
from guava_aug.runtime.text import in_short, pluralize
from guava_aug.runtime.version import __version__

if TYPE_CHECKING:
    from guava_aug.avatar import Avatar
    from guava_aug.avatar.model import GuavaModel
    from guava_aug.avatar.personalize import AvatarFile, PersonalizedVideo
    from guava_aug.body import Motion
    from guava_aug.tracked import BodyOutline, TrackedVideo

log = logging.getLogger(__name__)

TELL_EVERY = 10.0  # seconds between two lines about one fit; also a sign of life for --timeout
_DIGITS = 32  # of hexadecimal
_NUMBERS = ("before", "after", "frames", "kept_back", "seconds", "avatar_version")  # of `made_with`, as text in a file


@dataclass(frozen=True)
class AvatarFacts:
    """What is known of the avatar of a video, and noted of it in the views."""

    path: Path
    name: str  # of the video
    made_with: dict[str, str]  # of the file
    is_new: bool  # fitted by this call

    @property
    def before(self) -> float:
        """Return dB on the person in the frames kept back, of the avatar without a fit."""
        return _number(self.made_with.get("before"))

    @property
    def after(self) -> float:
        """Return the same of the fitted avatar."""
        return _number(self.made_with.get("after"))

    @property
    def used(self) -> bool:
        """Return whether views are made of it: it is better than before on the frames kept back."""
        return self.made_with.get("used") == "yes"

    def notes(self) -> dict[str, Any]:
        """Return what `made_with` of the views says of it."""
        notes: dict[str, Any] = {"avatar": self.made_with["fingerprint"], "avatar_used": self.used}
        found = {"avatar_before": self.before, "avatar_after": self.after}
        return notes | {key: value for key, value in found.items() if math.isfinite(value)}

    def in_words(self) -> str:
        """Return one line on the fit."""
        said = self.made_with
        kept = f"{self.before:.2f} dB before, {self.after:.2f} after on {said.get('kept_back')} frames kept back"
        if not self.used:
            return f"the fitted avatar is no better and is not used: {kept}"
        how = f"{said.get('preset')}, {said.get('frames')} frames, {said.get('seconds')} s"
        return f"avatar fitted ({how}): {kept}"


@dataclass(frozen=True)
class FittedAvatar(AvatarFacts):
    """The avatar of a video, as its file has it."""

    avatar: Avatar
    motion: Motion
    viewmats: Any  # [T, 4, 4]

    def facts(self) -> AvatarFacts:
        """Return what is known of it, without its tensors."""
        return AvatarFacts(self.path, self.name, self.made_with, self.is_new)


def settle(config: RunConfig, device: str | None = None) -> RunConfig:
    """Return the configuration with `personalize` auto decided, and say how.

    As most views of the output folder were made, for they are to be alike; without any, full on a GPU and off on a CPU.

    Args:
        config: of the run.
        device: of a loaded model that is used instead of the configuration's.
    """
    if config.personalize != "auto":
        return config
    there = None if config.overwrite else _of_views_there(config.output_root)
    if there is not None:
        chosen, why = there, f"as the views in {config.output_root}"
    elif on_gpu(config, device):
        chosen, why = "full", "there is a GPU"
        if config.engine == "ray":
            why = "this machine has a GPU; if the cluster's workers have none, give --personalize off"
    elif config.engine == "ray":
        chosen, why = "off", "this machine has no GPU; if the cluster's workers have, give --personalize full"
    else:
        chosen, why = (
            "off",
            "on a CPU fast takes some 20 minutes of one core per video; --personalize fast does it all the same",
        )
    log.info("--personalize auto: %s (%s)", chosen, why)
    return replace(config, personalize=chosen)


def _of_views_there(root: Path) -> PersonalizeName | None:
    """Return how most views of an output folder were made; None: there are none."""
    if not is_there(root, OutputError):
        return None
    counts: Counter[str] = Counter()
    known = False  # to the journals, made or not
    for _, _, view in History(root).items():
        known = True
        if view.made is not None:
            made_with, _ = view.made.pick(("made_with", "frames"))
            counts[str((made_with or {}).get("personalize", "off"))] += 1
    if not known and any(root.glob("augmentation_params*.json")):  # of the original, or its journals are lost
        return "off"
    most = max(counts, key=lambda name: counts[name], default=None)
    return next((name for name in ("off", "fast", "full") if name == most), None)


def on_gpu(config: RunConfig, device: str | None = None) -> bool:
    """Return whether a run will be on a GPU of this machine; `device` is that of a loaded model."""
    from guava_aug.runtime.device import gpu_usable  # noqa: PLC0415 - imports torch, which is slow

    asked = (device or config.device).strip().lower()
    return (device is not None or gpu_usable()) and not asked.startswith(("cpu", "mps"))


class AvatarStore:
    """Gives the fitted avatars of videos, and makes those that are not there.

    Args:
        root: folder of the files.
        preset: "fast" or "full".
        weights: digest of the model's files.
        check: called at every step; ends the fit by raising.
    """

    def __init__(self, root: Path, preset: str, weights: str, check: Check = lambda: None) -> None:
        self.root, self.preset, self.weights, self._check = root, preset, weights, check
        self._body: tuple[object, str] = None, ""  # the latest body model and its digest

    def get(
        self, model: GuavaModel, video: TrackedVideo, outline: BodyOutline | None = None, *, again: bool = False
    ) -> FittedAvatar:
        """Return the avatar of a video; fitted now, unless that was done before.

        Args:
            model: reconstructs and renders; on its device.
            video: whose person it is.
            outline: of the model's body.
            again: fit it even if the file is there.

        Raises:
            InputError: it cannot be fitted; names the video and what helps.
            OutputError: the file cannot be written.
        """
        fingerprint = self.fingerprint(model, video)
        path = self.path(video.name, fingerprint)
        if not again and (there := self._read(path, fingerprint, model, video)) is not None:
            return there
        found, is_new = None, False

        def is_done() -> bool:
            nonlocal found
            found = None if again else self._read(path, fingerprint, model, video, quiet=True)
            return found is not None

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_stale_files(path.parent)
            with lock_file(
                path.with_suffix(".lock"), is_done=is_done, check=self._check,
                on_wait=lambda owner: log.info("%s: %s is fitting the avatar; waiting for it", video.name, owner),
            ) as mine:  # fmt: skip
                if mine and not is_done():  # another process may have made it between the look and the lock
                    self._make(path, fingerprint, model, video, outline)
                    is_new = True
                    found = self._read(path, fingerprint, model, video)
        except OSError as error:
            raise OutputError(
                f"{path.parent}: the avatar of {video.name} cannot be kept ({error.strerror or error}); check the "
                "folder, its permissions and the free space, or give another --avatar_root"
            ) from error
        if found is None:
            raise OutputError(f"{path}: was written and cannot be read back; check the disk, and run it again")
        return replace(found, is_new=is_new)

    def path(self, name: str, fingerprint: str) -> Path:
        """Return the file of a video's avatar."""
        return self.root / name / f"{self.preset}_{fingerprint[:16]}.safetensors"

    def fingerprint(self, model: GuavaModel, video: TrackedVideo) -> str:
        """Return 32 hexadecimal digits of all that a fit depends on."""
        from guava_aug.avatar.personalize import PRESETS  # noqa: PLC0415 - imports torch, which is slow

        if self._body[0] is not model.body:
            self._body = model.body, _digest_of_body(model)
        said = {
            "version": AVATAR_VERSION, "weights": self.weights, "body": self._body[1], "input": input_digest(video),
            "source_frame": video.source_frame, "config": asdict(PRESETS[self.preset]),
        }  # fmt: skip
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:_DIGITS]

    def _read(
        self, path: Path, fingerprint: str, model: GuavaModel, video: TrackedVideo, *, quiet: bool = False
    ) -> FittedAvatar | None:
        """Return what a file holds; None: it is not there, or damaged, which is told."""
        from guava_aug.avatar.personalize import read_avatar_file  # noqa: PLC0415 - imports torch, which is slow

        if not is_there(path, OutputError):
            return None
        try:
            found = read_avatar_file(path, model.body)
            _check_file(path, found, fingerprint, video)
        except AssetError as error:
            if not quiet:
                log.warning("%s: %s; it is fitted again", video.name, str(error).removesuffix("; fit the avatar again"))
            return None
        motion, viewmats = found.motion.to("cpu"), found.viewmats.cpu()  # as those of a tracked video
        return FittedAvatar(path, video.name, found.made_with, False, found.avatar, motion, viewmats)

    def _make(
        self, path: Path, fingerprint: str, model: GuavaModel, video: TrackedVideo, outline: BodyOutline | None
    ) -> None:
        import torch  # noqa: PLC0415 - slow

        from guava_aug.avatar.personalize import PRESETS, personalize_video, write_avatar_file  # noqa: PLC0415 - with torch
        from guava_aug.runtime.device import lack_of_memory_as_such, release_memory  # noqa: PLC0415 - with torch

        config = PRESETS[self.preset]
        log.info(
            "%s: fitting the avatar (%s) to %s", video.name, self.preset,
            pluralize(min(video.num_frames, config.most_frames), "frame"),
        )  # fmt: skip
        found, short = None, ""
        try:
            with lack_of_memory_as_such():
                found = personalize_video(model, video, config, outline=outline, on_step=self._teller(video.name))
        except UsageError as error:  # of this video, and no other
            raise InputError(
                f"{video.name}: its avatar cannot be fitted ({error}); give --personalize off for it"
            ) from None
        except torch.cuda.OutOfMemoryError as error:
            short = in_short(error)
        except OSError as error:  # of the fit: nothing was to be kept yet
            raise InputError(
                f"{video.name}: the fit of its avatar stopped ({in_short(error)}); run it again, or give --personalize "
                "off for it"
            ) from error
        if found is None:
            release_memory(model.device)  # what the error referred to, too
            raise OutputError(
                f"{video.name}: the GPU has too little memory to fit the avatar ({short}); give --personalize fast or "
                "off, or end other programs on this GPU"
            )
        write_avatar_file(path, found.fit.avatar, found.motion, found.viewmats, self._facts(found, fingerprint, model))

    def _facts(self, found: PersonalizedVideo, fingerprint: str, model: GuavaModel) -> dict[str, str]:
        fit = found.fit
        return {
            "fingerprint": fingerprint, "preset": self.preset, "used": "yes" if fit.better else "no",
            "before": f"{fit.before:.2f}", "after": f"{fit.after:.2f}", "frames": str(len(found.frames)),
            "kept_back": str(found.kept_back), "seconds": f"{fit.seconds:.1f}", "device": str(model.device),
            "weights": self.weights, "avatar_version": str(AVATAR_VERSION), "version": __version__,
        }  # fmt: skip

    def _teller(self, name: str) -> Callable[[int, int], None]:
        """Return what a fit calls at every step."""
        told = time.monotonic()

        def on_step(done: int, steps: int) -> None:
            nonlocal told
            self._check()
            if time.monotonic() - told >= TELL_EVERY:
                told = time.monotonic()
                log.info("%s: fitting the avatar: step %d of %d", name, done, steps)

        return on_step


@dataclass(frozen=True)
class AvatarResult:
    """What became of the avatar of one video."""

    name: str
    avatar: AvatarFacts | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        if self.avatar is None:
            return {"video": self.name, "error": self.error}
        a = self.avatar
        notes = {key: _number_of(value) if key in _NUMBERS else value for key, value in a.made_with.items()}
        return {"video": self.name, "path": str(a.path), "new": a.is_new, **notes, "used": a.used}


def avatars_there(root: Path, names: Collection[str]) -> list[AvatarResult]:
    """Return the avatars of videos that lie below a folder, by their headers alone: nothing of them is loaded.

    Args:
        root: of `AvatarStore`.
        names: of the videos.
    """
    from guava_aug.avatar.personalize.avatar_file import read_notes  # noqa: PLC0415 - imports torch, which is slow

    found = []
    for name in names:
        for path in sorted((root / name).glob("*.safetensors")):
            try:
                found.append(AvatarResult(name, AvatarFacts(path, name, read_notes(path), False)))
            except AssetError as error:
                found.append(AvatarResult(name, error=str(error)))
    return found


def _check_file(path: Path, found: AvatarFile, fingerprint: str, video: TrackedVideo) -> None:
    if found.made_with.get("fingerprint") != fingerprint:
        raise AssetError(f"{path} is the avatar of another video, or of other settings, under this name")
    if len(found.motion) != video.num_frames:
        frames = pluralize(len(found.motion), "frame")
        raise AssetError(f"{path} has poses of {frames}, and the video has {video.num_frames}")


def _digest_of_body(model: GuavaModel) -> str:
    """Return 32 hexadecimal digits of a body model: its shape at rest, its faces and its chart."""
    a = model.body.assets
    digest = hashlib.sha256()
    for tensor in (a.body.v_template, a.body.shapedirs, a.head.v_template, a.faces, a.uv_face, a.uv_bary):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


def _number_of(text: str) -> float | int | None:
    """Return a number that a file has as text, whole where it has no point; None: it is none."""
    value = _number(text)
    return None if not math.isfinite(value) else int(value) if text.strip().lstrip("-").isdecimal() else value


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
