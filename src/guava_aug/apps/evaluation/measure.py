"""The loop of an evaluation: a person, an avatar from their first frame, then every frame through every camera.

One frame is in memory at a time, whatever the number of subjects and frames.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.evaluation.crops import Box, face_vertices, part_boxes
from guava_aug.apps.evaluation.mesh import ProjectedMesh
from guava_aug.apps.evaluation.metrics import delta_e, inner, psnr, ssim_map
from guava_aug.apps.synthetic.backgrounds import make_background
from guava_aug.apps.synthetic.bank import Bank
from guava_aug.apps.synthetic.pairs import Subject, make_subject
from guava_aug.apps.synthetic.render import render_vertices
from guava_aug.apps.synthetic.varieties import STANDARD
from guava_aug.avatar.model import GuavaModel
from guava_aug.body import Motion
from guava_aug.errors import AssetError, UsageError
from guava_aug.output import to_png_bytes
from guava_aug.render.background import composite
from guava_aug.tracked import Source, TrackedVideo
from guava_aug.tracked.write import write_tracked
from guava_aug.views import Cameras, View, plan_views, tracked_cameras
from guava_aug.views.difficulty import DIFFICULTIES, check_difficulties

log = logging.getLogger(__name__)

SELF = "self"  # the source's own camera over the motion
METHODS = ("ours", "raw", "mesh", "input")
SHOWN = ("truth", "ours", "mesh", "input")  # pictures of an example
MOTION_FRAMES = 100  # 4 s at 25 fps; frame 0 is the source and never a target
PERSON = 0.5  # a pixel is of the person when the truth's alpha is above
TRUTH_SUPERSAMPLE = 2
_BODY_TOLERANCE = 1e-3  # metres


@dataclass(frozen=True)
class Scores:
    """What one method reaches in one view: means over the frames. None: not measurable in any of them."""

    psnr: float | None  # dB, whole picture, person over the plate
    ssim: float | None
    person_psnr: float | None  # dB, pixels with truth alpha > 0.5
    person_ssim: float | None
    person_delta_e: float | None  # colour difference, less is better
    face_psnr: float | None  # dB, all pixels of the box
    hands_psnr: float | None


METRICS = tuple(f.name for f in fields(Scores))


@dataclass(frozen=True)
class Example:
    """One frame of one view, to look at."""

    person: str
    view: str
    frame: int
    pictures: dict[str, np.ndarray]  # of SHOWN -> uint8 [H, W, 3]; "input" of "self" is the source frame


@dataclass(frozen=True)
class PersonResult:
    """Everything measured on one person."""

    seed: int
    name: str
    outfit: str
    hair: str
    views: dict[str, View]  # difficulty -> camera
    scores: dict[str, dict[str, Scores]]  # view -> method; "input" is missing in "self", where it is the truth
    examples: list[Example]


def frame_numbers(count: int) -> list[int]:
    """Return `count` frames of the motion, evenly spaced: the last one and no frame 0.

    Raises:
        UsageError: more frames than there are, or none.
    """
    if not 1 <= count < MOTION_FRAMES:
        raise UsageError(f"--frames is {count}; expected 1 to {MOTION_FRAMES - 1}: the motion without its source frame")
    return [round((k + 1) * (MOTION_FRAMES - 1) / count) for k in range(count)]


def person_name(seed: int) -> str:
    """Return the name of a person's video; it decides the cameras of the new views."""
    return f"person_{seed}"


def check_model_fits(model: GuavaModel, bank: Bank) -> None:
    """Raise AssetError when the model's body is not the one that the generated subjects have."""
    ours, theirs = model.body.assets.body.v_template.cpu(), bank.assets.body.v_template[: bank.shipped]
    if ours.shape != theirs.shape or float((ours - theirs).abs().max()) > _BODY_TOLERANCE:
        raise AssetError(
            f"{model.source}: its body model ({len(ours)} vertices) is not the free one of the generated subjects "
            f"({len(theirs)} vertices), so it cannot be measured on them; give --model_path a model trained "
            "on the free body"
        )


def measure_person(
    model: GuavaModel,
    bank: Bank,
    seed: int,
    frames: Sequence[int],
    difficulties: Sequence[str] = tuple(DIFFICULTIES),
    *,
    base_seed: int = 42,
    variety: str = STANDARD,
    examples_of: Sequence[int] = (),
    on_frame: Callable[[str], None] = lambda view: None,
) -> PersonResult:
    """Return the scores of one person of the generator; same arguments, same scores (on the CPU to the last bit).

    Cameras are `plan_views` of `person_name(seed)` with all three difficulties, whichever of them are asked for.
    variety: which set of people the seed is of. examples_of: frames whose pictures are kept. on_frame: called after
    every frame of every view with its name.
    """
    size, device = model.config.image_size, model.device
    wanted = check_difficulties(difficulties)
    person = person_name(seed)
    with torch.inference_mode():
        subject = make_subject(bank, seed, MOTION_FRAMES, device, variety=variety)
        planned = {v.difficulty: v for v in plan_views(person, tuple(DIFFICULTIES), base_seed)}
        views = {d: planned[d] for d in wanted}
        cameras = {SELF: tracked_cameras(subject.viewmat.cpu(), size)}
        cameras |= {d: v.cameras(subject.viewmat.cpu(), 1, size) for d, v in views.items()}
        cameras = {k: c.to(device) for k, c in cameras.items()}
        plate = torch.from_numpy(make_background(seed, size)).permute(2, 0, 1)[None].contiguous().to(device)
        stage = _Stage(model, subject, cameras, plate, face_vertices(model.body))
        tallies = {view: {method: _Tally() for method in METHODS} for view in cameras}
        examples = []
        for frame in frames:
            for view, pictures, truth in stage.frame(frame):
                for method, picture in pictures.items():
                    if not (view == SELF and method == "input"):
                        tallies[view][method].add(truth.score(picture))
                if frame in examples_of:
                    shown = {"truth": truth.picture, **pictures}
                    kept = {name: to_png_bytes(shown[name][None])[0] for name in SHOWN}
                    examples.append(Example(person, view, frame, kept))
                on_frame(view)
    scores = {view: {m: t.mean() for m, t in by.items() if t.count} for view, by in tallies.items()}
    return PersonResult(seed, person, subject.person.outfit, subject.person.hair, views, scores, examples)


@dataclass(frozen=True)
class Truth:
    """What a picture of one view should look like, on the CPU."""

    picture: Tensor  # [3, H, W] over the plate
    person: Tensor  # [H, W] bool
    boxes: dict[str, Box]

    def score(self, picture: Tensor) -> dict[str, float | None]:
        """Return every metric of picture [3, H, W] over the same plate."""
        cut = lambda image, box: image[:, box[1] : box[3], box[0] : box[2]]
        parts = {name: psnr(cut(picture, box), cut(self.picture, box)) for name, box in self.boxes.items()}
        hands = [v for name, v in parts.items() if name.endswith("hand")]
        similar, inside = ssim_map(picture, self.picture), inner(self.person)
        seen = bool(self.person.any())
        return {
            "psnr": psnr(picture, self.picture),
            "ssim": float(similar.mean()),
            "person_psnr": psnr(picture, self.picture, self.person) if seen else None,
            "person_ssim": float(similar[inside].mean()) if bool(inside.any()) else None,
            "person_delta_e": delta_e(picture, self.picture, self.person) if seen else None,
            "face_psnr": parts.get("face"),
            "hands_psnr": sum(hands) / len(hands) if hands else None,
        }


class _Stage:
    """One person, ready to be seen: the avatar and the textured mesh are made from their source frame."""

    def __init__(self, model: GuavaModel, subject: Subject, cameras: dict[str, Cameras], plate: Tensor, face: Tensor):
        self.model, self.subject, self.cameras, self.plate, self.face = model, subject, cameras, plate, face
        rgb, alpha = self._draw(self._drawn_vertices(0), cameras[SELF])
        picture = composite_premultiplied(rgb, alpha, plate)
        video_source, self.source_rgb, mask = self._through_the_tracker(picture, alpha)
        self.avatar = model.reconstruct(video_source)
        vertices = model.body(subject.identity, subject.motion[0:1]).vertices
        self.mesh = ProjectedMesh.build(model.body, vertices, cameras[SELF], self.source_rgb, mask)

    def frame(self, index: int) -> Iterator[tuple[str, dict[str, Tensor], Truth]]:
        """Yield per view: its name, the pictures of all methods [3, H, W] on the CPU, and the truth."""
        motion = self._motion(index)
        gaussians = self.avatar.pose(motion)
        posed = self.model.body(self.subject.identity, motion)
        drawn = self._drawn_vertices(index)
        shown: Tensor | None = None  # the input frame, which is the truth of the first view
        for view, camera in self.cameras.items():
            rgb, alpha = self._draw(drawn, camera)
            truth = composite_premultiplied(rgb, alpha, self.plate)[0]
            shown = truth if shown is None else shown
            layers = self.model.render_layers(gaussians, camera)
            mesh_rgb, mesh_alpha = self.mesh.render(posed.vertices, camera)
            pictures = {
                "ours": composite(layers.rgb, layers.alpha, self.plate)[0],
                "raw": composite_premultiplied(layers.raster.image[:, :3], layers.alpha, self.plate)[0],
                "mesh": composite_premultiplied(mesh_rgb, mesh_alpha, self.plate)[0],
                "input": self.source_rgb if view == SELF else shown,
            }
            yield (
                view,
                {name: p.clamp(0, 1).cpu() for name, p in pictures.items()},
                Truth(truth.clamp(0, 1).cpu(), (alpha[0, 0] > PERSON).cpu(), part_boxes(posed, self.face, camera)),
            )

    def _motion(self, index: int) -> Motion:
        return self.subject.motion[index : index + 1]

    def _drawn_vertices(self, index: int) -> Tensor:
        """Return [1, n, 3] of the mesh that the generator draws, clothes and hair with it."""
        subject = self.subject
        return subject.person.skin.vertices(subject.model(subject.identity, self._motion(index)))

    def _draw(self, vertices: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
        """Return the truth: colour times alpha [1, 3, H, W] and alpha [1, 1, H, W]."""
        return render_vertices(vertices, self.subject.person.skin, self.subject.light, camera, TRUTH_SUPERSAMPLE)

    def _through_the_tracker(self, picture: Tensor, alpha: Tensor) -> tuple[Source, Tensor, Tensor]:
        """Return the source frame after JPEG: for the model, and as picture [3, H, W] and mask [1, H, W]."""
        subject, device = self.subject, self.model.device
        mask = to_png_bytes(alpha)[0, ..., 0]
        with tempfile.TemporaryDirectory(prefix="guava_aug_evaluate.") as folder:
            write_tracked(
                folder, "source", subject.identity.to("cpu"), self._motion(0).to("cpu"), subject.viewmat.cpu()[None],
                [(to_png_bytes(picture)[0], mask)],
            )  # fmt: skip
            video = TrackedVideo.open(Path(folder), "source")
            source = video.source_at(self.model.config.feature_img_size)
            rgb, read_mask = video.read_frame(0)
        as_float = lambda a: torch.from_numpy(a.copy()).float().div(255).to(device)
        return source, as_float(rgb).permute(2, 0, 1), as_float(read_mask)[None]


def composite_premultiplied(rgb: Tensor, alpha: Tensor, plate: Tensor) -> Tensor:
    """Return [T, 3, H, W] premultiplied colour over the plate."""
    return rgb + plate * (1 - alpha)


class _Tally:
    """Means over frames; each metric over the frames that have it."""

    def __init__(self) -> None:
        self.sums = dict.fromkeys(METRICS, 0.0)
        self.counts = dict.fromkeys(METRICS, 0)

    @property
    def count(self) -> int:
        return max(self.counts.values())

    def add(self, scores: dict[str, float | None]) -> None:
        for name, value in scores.items():
            if value is not None:
                self.sums[name] += value
                self.counts[name] += 1

    def mean(self) -> Scores:
        return Scores(**{n: self.sums[n] / self.counts[n] if self.counts[n] else None for n in METRICS})
