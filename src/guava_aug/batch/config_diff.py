"""In what views that exist differ from those a run would make, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guava_aug.batch.config import RunConfig
from guava_aug.batch.options import options_of, pixel_options
from guava_aug.errors import UsageError, printable
from guava_aug.runtime.text import pluralize
from guava_aug.views.view import View, recorded_params

CAMERAS_SHOWN = 5
FLAGS = {
    "weights": "the model's weights (--model_path)",
    "background": "--background",
    "crf": "--crf",
    "preset": "--preset",
    "fps": "frames per second (--fps, --time_map)",
    "render": "way of rendering (version of guava-aug)",
    "avatar_version": "way of fitting avatars (version of guava-aug)",
    **{declared.name: f"--{declared.flag}" for declared in options_of(RunConfig) if declared.decides_pixels},
}
# Weights that an earlier version had embedded, by their digest: no flag of this version brings them back.
EMBEDDED_BEFORE = {"656c8aa9575e2ad8f9c2660e0da54a63": "0.1.0"}
ADVICE = "Use those of the earlier run, or another --output_root, or --overwrite to make these views again"


@dataclass(frozen=True)
class Difference:
    """One value of one view."""

    video: str
    label: str
    key: str
    then: Any
    now: Any
    camera: bool = False  # whether it is a parameter of the view


class ConfigMismatchError(UsageError):
    """Existing views were made with other values than those of this run."""

    has_lines = True

    def __init__(
        self, differences: Sequence[Difference], names: Mapping[str, str] | None = None, advice: str | None = None
    ) -> None:
        super().__init__(explain_differences(differences, names or FLAGS, advice or ADVICE))
        self.differences = differences


def compare(video: str, view: View, told: Mapping[str, Any], made_with: Mapping[str, Any]) -> list[Difference]:
    """Return every value of a view that differs; a value that one side lacks is no difference.

    An option that is absent has the value of version 0.1.0.

    Args:
        video: Name of the video.
        view: The view of this run.
        told: `View.record` and `made_with` of the existing view.
        made_with: Of this run.
    """
    sampler, params = recorded_params(told)
    now = view.params
    cameras = [("sampler", sampler, view.sampler)] if sampler is not None else []
    cameras += [(key, params[key], now[key]) for key in now if key in params]
    then = dict(told.get("made_with") or {})
    if made_with and then:  # values of version 0.1.0 are not recorded
        before = pixel_options(RunConfig)
        made_with, then = {**before, **made_with}, {**before, **then}
    settings = [(key, then[key], value) for key, value in made_with.items() if key in then]
    return [
        Difference(video, view.label, key, before, value, camera)
        for found, camera in ((cameras, True), (settings, False))
        for key, before, value in found
        if before != value
    ]


def explain_differences(
    differences: Sequence[Difference], names: Mapping[str, str] = FLAGS, advice: str = ADVICE
) -> str:
    """Return the message: cameras view by view, settings value by value, by their `names`; then what to do."""
    views = {(d.video, d.label) for d in differences}
    cameras: dict[tuple[str, str], list[Difference]] = {}
    settings: dict[tuple[str, str, str], list[Difference]] = {}
    for d in differences:
        if d.camera:
            cameras.setdefault((d.video, d.label), []).append(d)
        else:
            settings.setdefault((d.key, printable(d.then), printable(d.now)), []).append(d)
    paragraphs = []
    if cameras:
        lines = [f"{pluralize(len(cameras), 'view')} made with another camera than this run would give:"]
        for (video, label), found in list(cameras.items())[:CAMERAS_SHOWN]:
            then = printable(", ".join(f"{d.key} {d.then}" for d in found))
            now = printable(", ".join(f"{d.key} {d.now}" for d in found))
            lines.append(f"  {printable(video)} / {printable(label)}\n    made with: {then}\n    this run:  {now}")
        if len(cameras) > CAMERAS_SHOWN:
            lines.append(f"  and {len(cameras) - CAMERAS_SHOWN} more")
        lines.append("The camera follows from --base_seed and from the number and order of --difficulties.")
        lines.append("Where only difficulties were added at the end of the list, --keep_cameras keeps these views.")
        paragraphs.append("\n".join(lines))
    if settings:
        count = len({(d.video, d.label) for found in settings.values() for d in found})
        lines = [f"{pluralize(count, 'view')} made with another configuration than this run's:"]
        for (key, then, now), found in settings.items():
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            where = printable(f"{found[0].video} / {found[0].label}") + more
            lines.append(f"  {names.get(key, key)}: made with {then}, this run {now} ({where})")
            if key == "weights" and then in EMBEDDED_BEFORE:
                version = EMBEDDED_BEFORE[then]
                lines.append(
                    f"    {then} is the embedded model of guava-aug {version}: to go on with it, use that version, or "
                    "give the folder with its model.safetensors and body.npz as --model_path"
                )
        paragraphs.append("\n".join(lines))
    return "\n".join([*paragraphs, f"{pluralize(len(views), 'view')} in all. {advice}"])
