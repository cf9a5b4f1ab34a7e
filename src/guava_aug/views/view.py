"""Views: data that say where the cameras of one output are, named and reproducible."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from guava_aug.errors import UsageError
from guava_aug.views.difficulty import check_difficulties, draw, extra_seed, seed_for

if TYPE_CHECKING:  # a work list needs no torch
    from torch import Tensor

    from guava_aug.views.cameras import Cameras

Trajectory = Literal["fixed", "circle", "zoom"]
ORIGINAL_SAMPLERS = ("fixed", "circle", "zoom")  # those that take ORIGINAL_PARAMS
ORIGINAL_PARAMS = ("seed", "yaw", "pitch", "zoom")


@dataclass(frozen=True, slots=True, init=False, repr=False)
class View:
    """One output of a video: a name, a sampler of cameras, and the sampler's parameters.

    `View(difficulty, index, seed, yaw, pitch, zoom)` is a view as the original draws them; `View.of` makes one of any
    sampler. Views are equal when all their parameters are, and go through JSON and pickle unchanged.
    """

    name: str
    sampler: str  # a key of `samplers.SAMPLERS`
    _items: tuple[tuple[str, Any], ...]  # the parameters in their order; lists as tuples

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
        params = {"seed": seed, "yaw": yaw, "pitch": pitch, "zoom": zoom}
        self._set(difficulty if index == 0 else f"{difficulty}_{index:03d}", trajectory, params)

    @classmethod
    def of(cls, name: str, sampler: str, params: Mapping[str, Any]) -> View:
        """Return a view of any sampler.

        params: what the sampler takes: numbers, words, None, and lists or tensors of them, all finite.

        Raises:
            UsageError: a parameter is something that JSON does not have.
        """
        view = object.__new__(cls)
        view._set(name, sampler, params)
        return view

    def _set(self, name: str, sampler: str, params: Mapping[str, Any]) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "sampler", sampler)
        object.__setattr__(self, "_items", tuple((str(key), _frozen(name, value)) for key, value in params.items()))

    def __repr__(self) -> str:
        if not self.is_original:
            return f"View.of({self.name!r}, {self.sampler!r}, {self.params!r})"
        return (  # part of the digest by which a run knows again what failed before: it stays as it is
            f"View(difficulty={self.difficulty!r}, index={self.index!r}, seed={self.seed!r}, yaw={self.yaw!r}, "
            f"pitch={self.pitch!r}, zoom={self.zoom!r}, trajectory={self.sampler!r})"
        )

    def __hash__(self) -> int:
        return hash((self.name, self.sampler))

    @property
    def params(self) -> dict[str, Any]:
        """The sampler's parameters, plain JSON values; a copy."""
        return {key: _thawed(value) for key, value in self._items}

    @property
    def label(self) -> str:
        """Folder name: the view's name. Of a difficulty that of view 0; `easy_001` and so on are the others."""
        return self.name

    @property
    def difficulty(self) -> str:
        """The name without its number."""
        return split_label(self.name)[0]

    @property
    def index(self) -> int:
        """The number at the end of the name, 0 where there is none."""
        return split_label(self.name)[1]

    @property
    def is_original(self) -> bool:
        """Whether the parameters are the original's seed, yaw, pitch and zoom."""
        return self.sampler in ORIGINAL_SAMPLERS and tuple(key for key, _ in self._items) == ORIGINAL_PARAMS

    @property
    def trajectory(self) -> str:
        """The sampler."""
        return self.sampler

    @property
    def seed(self) -> int:
        """The seed it was drawn with. AttributeError where the sampler has none; so are yaw, pitch and zoom."""
        return self._param("seed")

    @property
    def yaw(self) -> float:
        """Nominal yaw, radians."""
        return self._param("yaw")

    @property
    def pitch(self) -> float:
        """Nominal pitch, radians."""
        return self._param("pitch")

    @property
    def zoom(self) -> float:
        """Factor on the camera's distance."""
        return self._param("zoom")

    def _param(self, key: str) -> Any:
        for name, value in self._items:
            if name == key:
                return value
        raise AttributeError(f"view {self.name!r}: its sampler {self.sampler!r} has no {key}")

    def with_params(self, **params: Any) -> View:
        """Return the same view with other parameters, such as logged ones: a view that was rendered keeps its camera.

        None leaves a parameter as it is; a whole number for what was a float becomes one.
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
        """Return what journal, sidecar, tag and fingerprint say of the cameras: sampler and parameters.

        Of the original's views that is `seed`, `yaw`, `pitch`, `zoom`, and `trajectory` where they move; of any other
        `sampler` and `params`. `recorded_params` reads both.
        """
        if self.is_original:
            moving = {} if self.sampler == "fixed" else {"trajectory": self.sampler}
            return {**self.params, **moving}
        return {"sampler": self.sampler, "params": self.params}

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` makes the view of them."""
        return {"name": self.name, "sampler": self.sampler, "params": self.params}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> View:
        """Return the view that `to_json` was made from."""
        return View.of(values["name"], values["sampler"], values["params"])

    def cameras(
        self, source_viewmat: Tensor, num_frames: int, size: int = 512, *, start: int = 0, K: Tensor | None = None
    ) -> Cameras:
        """Return the cameras of frames start .. start + num_frames - 1, viewmats [T, 4, 4] on the CPU.

        A video can be rendered in chunks: a frame has the same camera whatever chunk it is in.

        Args:
            source_viewmat: [4, 4] tracked camera of the video's source frame.
            size: of the pictures, pixels, both sides.
            K: [3, 3] the clip's lens for pictures of this size; None: the original's, nearly orthographic.

        Raises:
            UsageError: unknown sampler, or parameters that it does not take.
            InputError: the source camera or the lens is damaged.
        """
        from guava_aug.views.samplers import sample

        return sample(self.name, self.sampler, self.params, source_viewmat, range(start, start + num_frames), size, K)


def recorded_params(record: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return sampler and parameters that a journal line, sidecar, log entry or tag tells; (None, {}): nothing."""
    if isinstance(record.get("params"), Mapping) and record.get("sampler"):
        return str(record["sampler"]), dict(record["params"])
    params = {key: record[key] for key in ORIGINAL_PARAMS if record.get(key) is not None}
    return (str(record.get("trajectory") or "fixed"), params) if params else (None, {})


def split_label(label: str) -> tuple[str, int]:
    """Return difficulty and number of a view's label: ("easy", 1) of "easy_001", ("easy", 0) of "easy"."""
    numbered = re.fullmatch(r"(.+)_(\d{3,})", label)
    return (numbered[1], int(numbered[2])) if numbered else (label, 0)


def plan_views(
    name: str, difficulties: Sequence[str], base_seed: int = 42, views_per_difficulty: int = 1
) -> list[View]:
    """The views of the video `name`: all of the first difficulty, then all of the second, ...

    View 0 of a difficulty is the original's (its seed depends on the whole list, see `seed_for`); the seeds of the
    others depend only on (base seed, name, difficulty, number). Raises UsageError on an unknown difficulty, one named
    twice, or fewer than one view.
    """
    difficulties = check_difficulties(difficulties)
    if views_per_difficulty < 1:
        raise UsageError(f"--views_per_difficulty: expected 1 or more, found {views_per_difficulty}")
    views = []
    for i, difficulty in enumerate(difficulties):
        for k in range(views_per_difficulty):
            if k == 0:
                seed = seed_for(name, difficulties, i, base_seed)
            else:
                seed = extra_seed(name, difficulty, k, base_seed)
            views.append(View(difficulty, k, seed, *draw(difficulty, seed)))
    return views


def _frozen(view: str, value: Any) -> Any:
    """A JSON value that cannot be changed."""
    if hasattr(value, "tolist"):  # tensors, arrays and their numbers
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(_frozen(view, item) for item in value)
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise UsageError(f"view {view!r}: expected finite numbers, words and lists as parameters, found {value!r}")


def _thawed(value: Any) -> Any:
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value
