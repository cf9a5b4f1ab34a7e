"""Views: data that define the cameras of one output, named and reproducible."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from guava_aug.errors import UsageError
from guava_aug.views.difficulty import DIFFICULTIES, check_difficulties, draw, draw_all, extra_seed, seed_for

if TYPE_CHECKING:  # planning needs no torch
    from torch import Tensor

    from guava_aug.views.cameras import Cameras

Trajectory = Literal["fixed", "circle", "zoom"]
ORIGINAL_SAMPLERS = ("fixed", "circle", "zoom")  # those that take ORIGINAL_PARAMS
ORIGINAL_PARAMS = ("seed", "yaw", "pitch", "zoom")


@dataclass(frozen=True, slots=True, init=False, repr=False)
class View:
    """One output of a video: a name, a sampler of cameras, and the sampler's parameters.

    `View(difficulty, index, seed, yaw, pitch, zoom)` is a view as the original draws them; `View.of` makes one of any
    sampler. Views are equal if all their parameters are, and pass through JSON and pickle unchanged.
    """

    name: str
    sampler: str  # a key of `samplers.SAMPLERS`
    _names: tuple[str, ...]  # of the parameters in their order
    _values: tuple[Any, ...]  # theirs; lists as tuples

    def __init__(
        self,
        difficulty: str,
        index: int,  # 0 is the original's view of this difficulty
        seed: int,
        yaw: float,  # radians, towards the person's left; on a moving trajectory the amplitude
        pitch: float,  # radians, nominal: positive LOWERS the camera, see `angles`; moving: the amplitude
        zoom: float,  # factor on the camera's distance, above 1 is farther; for "zoom" 1 + the amplitude of the factor
        trajectory: Trajectory = "fixed",
    ) -> None:
        label = difficulty if index == 0 else f"{difficulty}_{index:03d}"
        self._set(label, trajectory, ORIGINAL_PARAMS, (seed, yaw, pitch, zoom))

    @classmethod
    def of(cls, name: str, sampler: str, params: Mapping[str, Any]) -> View:
        """Return a view of any sampler.

        Args:
            name: The view's name, which is its folder's.
            sampler: A key of `samplers.SAMPLERS`.
            params: The sampler's parameters: numbers, words, None, and lists or tensors of them, all finite.

        Raises:
            UsageError: A parameter is not a JSON value.
        """
        view = object.__new__(cls)
        view._set(name, sampler, tuple(map(str, params)), tuple(params.values()))
        return view

    def _set(self, name: str, sampler: str, names: tuple[str, ...], values: tuple[Any, ...]) -> None:
        set_ = object.__setattr__
        set_(self, "name", name)
        set_(self, "sampler", sampler)
        set_(self, "_names", ORIGINAL_PARAMS if names == ORIGINAL_PARAMS else names)
        set_(self, "_values", tuple([_frozen(name, value) for value in values]))

    def __repr__(self) -> str:
        if not self.is_original:
            return f"View.of({self.name!r}, {self.sampler!r}, {self.params!r})"
        return (  # part of the digest of earlier failures: must not change
            f"View(difficulty={self.difficulty!r}, index={self.index!r}, seed={self.seed!r}, yaw={self.yaw!r}, "
            f"pitch={self.pitch!r}, zoom={self.zoom!r}, trajectory={self.sampler!r})"
        )

    def __hash__(self) -> int:
        return hash((self.name, self.sampler))

    @property
    def params(self) -> dict[str, Any]:
        """Return the sampler's parameters, plain JSON values; a copy."""
        return {key: _thawed(value) for key, value in zip(self._names, self._values, strict=True)}

    @property
    def values(self) -> tuple[Any, ...]:
        """Return the values of `params` in their order, lists as tuples; fast."""
        return self._values

    @property
    def label(self) -> str:
        """Return the name of the folder, which is that of the view: `easy` for view 0, `easy_001` for view 1."""
        return self.name

    @property
    def difficulty(self) -> str:
        """Return the name without its number."""
        return split_label(self.name)[0]

    @property
    def index(self) -> int:
        """Return the number at the end of the name, 0 if there is none."""
        return split_label(self.name)[1]

    @property
    def is_original(self) -> bool:
        """Return whether the parameters are the original's seed, yaw, pitch and zoom."""
        return self.sampler in ORIGINAL_SAMPLERS and self._names == ORIGINAL_PARAMS

    @property
    def trajectory(self) -> str:
        """Return the sampler's name."""
        return self.sampler

    @property
    def seed(self) -> int:
        """Return the seed the view was drawn with.

        Raises:
            AttributeError: The sampler has no seed. The same holds for yaw, pitch and zoom.
        """
        value: int = self._param("seed")
        return value

    @property
    def yaw(self) -> float:
        """Return the nominal yaw, radians."""
        value: float = self._param("yaw")
        return value

    @property
    def pitch(self) -> float:
        """Return the nominal pitch, radians."""
        value: float = self._param("pitch")
        return value

    @property
    def zoom(self) -> float:
        """Return the factor on the camera's distance."""
        value: float = self._param("zoom")
        return value

    def _param(self, key: str) -> Any:
        if key in self._names:
            return self._values[self._names.index(key)]
        raise AttributeError(f"view {self.name!r}: its sampler {self.sampler!r} has no {key}")

    def with_params(self, **params: Any) -> View:
        """Return the same view with other parameters, such as logged ones: a rendered view keeps its camera.

        None leaves a parameter unchanged; a whole number in place of a float becomes a float.
        """
        before = self.params
        for key, value in params.items():
            if value is not None:
                before[key] = float(value) if isinstance(before.get(key), float) else value
        return View.of(self.name, self.sampler, before)

    def with_seed(self, seed: int) -> View:
        """Return the same view of a difficulty with the camera of another seed."""
        yaw, pitch, zoom = draw(self.difficulty, seed)
        return self.with_params(seed=seed, yaw=yaw, pitch=pitch, zoom=zoom)

    def record(self) -> dict[str, Any]:
        """Return the description of the cameras for journal, sidecar, tag and fingerprint: sampler and parameters.

        For the original's views these are `seed`, `yaw`, `pitch`, `zoom`, and `trajectory` if they move; for any other
        `sampler` and `params`. `recorded_params` reads both.
        """
        if self.is_original:
            moving = {} if self.sampler == "fixed" else {"trajectory": self.sampler}
            return {**self.params, **moving}
        return {"sampler": self.sampler, "params": self.params}

    def to_json(self) -> dict[str, Any]:
        """Return the view as plain values; `from_json` is the inverse."""
        return {"name": self.name, "sampler": self.sampler, "params": self.params}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> View:
        """Return the view of `to_json`'s values."""
        return View.of(values["name"], values["sampler"], values["params"])

    def cameras(
        self, source_viewmat: Tensor, num_frames: int, size: int = 512, *, start: int = 0, K: Tensor | None = None
    ) -> Cameras:
        """Return the cameras of frames start .. start + num_frames - 1, viewmats [T, 4, 4] on the CPU.

        A video can be rendered in chunks: the camera of a frame does not depend on its chunk.

        Args:
            source_viewmat: [4, 4] tracked camera of the video's source frame.
            num_frames: Number of frames T.
            size: Both sides of the images in pixels.
            start: Number of the first frame.
            K: [3, 3] the clip's lens for images of this size; None: the original's, nearly orthographic.

        Raises:
            UsageError: Unknown sampler, or parameters that it does not accept.
            InputError: The source camera or the lens is damaged.
        """
        from guava_aug.views.samplers import sample  # noqa: PLC0415 - needs torch, which planning does not

        return sample(self.name, self.sampler, self.params, source_viewmat, range(start, start + num_frames), size, K)


def recorded_params(record: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return sampler and parameters of a journal line, sidecar, log entry or tag; (None, {}) if it has none."""
    if isinstance(record.get("params"), Mapping) and record.get("sampler"):
        return str(record["sampler"]), dict(record["params"])
    params = {key: record[key] for key in ORIGINAL_PARAMS if record.get(key) is not None}
    return (str(record.get("trajectory") or "fixed"), params) if params else (None, {})


def split_label(label: str) -> tuple[str, int]:
    """Return difficulty and number of a view's label: ("easy", 1) of "easy_001", ("easy", 0) of "easy"."""
    numbered = re.fullmatch(r"(.+)_(\d{3,})", label)
    return (numbered[1], int(numbered[2])) if numbered else (label, 0)


@functools.lru_cache(maxsize=4096)
def view_order(label: str) -> tuple[int, str, int]:
    """Return the sort key of a view's label: position of the difficulty, its name, number of the view in it."""
    difficulty, number = split_label(label)
    known = list(DIFFICULTIES)
    return known.index(difficulty) if difficulty in known else len(known), difficulty, number


def plan_views(
    name: str, difficulties: Sequence[str], base_seed: int = 42, views_per_difficulty: int = 1
) -> list[View]:
    """Return the views of the video `name`: all of the first difficulty, then all of the second, ...

    View 0 of a difficulty is the original's (its seed depends on the whole list, see `seed_for`); the seeds of the
    others depend only on (base seed, name, difficulty, number).

    Raises:
        UsageError: An unknown difficulty, a repeated one, or fewer than one view.
    """
    difficulties = check_difficulties(difficulties)
    if views_per_difficulty < 1:
        raise UsageError(f"--views_per_difficulty: expected 1 or more, found {views_per_difficulty}")
    views = []
    for i, difficulty in enumerate(difficulties):
        seeds = [seed_for(name, difficulties, i, base_seed)]
        seeds += [extra_seed(name, difficulty, k, base_seed) for k in range(1, views_per_difficulty)]
        drawn = draw_all(difficulty, seeds)
        views += [View(difficulty, k, seeds[k], *drawn[k]) for k in range(views_per_difficulty)]
    return views


def _frozen(view: str, value: Any) -> Any:
    """Return an immutable JSON value."""
    kind = type(value)
    if kind is int or kind is str or (kind is float and math.isfinite(value)):
        return value
    if hasattr(value, "tolist"):  # tensors, arrays and their numbers
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_frozen(view, item) for item in value)
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise UsageError(f"view {view!r}: expected finite numbers, words and lists as parameters, found {value!r}")


def _thawed(value: Any) -> Any:
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value
