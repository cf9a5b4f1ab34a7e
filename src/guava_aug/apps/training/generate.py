"""Training subjects from the generator of synthetic signers: pictures from the tracked camera and from new views.

Textures are made by worker processes, pictures on the device. Subjects appear in POOL one file at a time, so a training
run can start on the first ones.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import multiprocessing.pool
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numba
import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.synthetic import default_body_path
from guava_aug.apps.synthetic.backgrounds import make_light
from guava_aug.apps.synthetic.bank import Bank, expression_names
from guava_aug.apps.synthetic.motion import signing_motion
from guava_aug.apps.synthetic.pairs import HELD_OUT, TRAINING_SEEDS
from guava_aug.apps.synthetic.raster import Surface, rasterize
from guava_aug.apps.synthetic.render import project, render_vertices
from guava_aug.apps.synthetic.scene import tracked_camera
from guava_aug.apps.synthetic.subjects import Person, make_person
from guava_aug.apps.synthetic.varieties import MIXED, STANDARD, variety_of
from guava_aug.apps.training.data import PersonViews, format_lenses
from guava_aug.apps.training.tracker_errors import Tracking, tracked_with_errors
from guava_aug.avatar.avatar import vertex_turns
from guava_aug.avatar.visibility import nearest_depth, relative_depth
from guava_aug.body import EhmModel, Motion, load_body_file
from guava_aug.body.joints import INDEX
from guava_aug.views.cameras import TANFOV, Cameras, fixed_camera, lens_matrices

log = logging.getLogger(__name__)
_YAW, _PITCH, _ZOOM = 0.56, 0.43, (0.60, 1.45)  # a little beyond `hard`
_TAKES, _TAKE_FRAMES = 3, 120
_MOTION_SEEDS = 1_000_000  # takes of training subjects have seeds from here on, far from any held-out one
_FIELD_OF_VIEW = (4.8, 65.0)  # degrees of the square: the format's lens, and the widest webcams
_OFF_CENTER = 0.12  # of a crop's principal point: standard deviation, halves of the crop's side
_NEAREST = 0.75  # metres from the camera of a new view to the point it looks at
_MARGIN = {"head": 1.9, "left_hand": 1.7, "right_hand": 1.7}
_HEAD = ("head", "left_eye", "right_eye", "neck")
_HAND = ("wrist", "index3", "middle3", "pinky3", "thumb3")


@dataclass(frozen=True)
class Cast:
    """A person with takes of motion, before any picture."""

    index: int
    seed: int
    person: Person
    motion: Motion  # all takes one after the other
    variety: str = STANDARD  # set of people that the person and the light are of


def cast_person(bank: Bank, index: int, seed: int, motion_seeds: list[int], variety: str = STANDARD) -> Cast:
    """Return the person of `seed` in takes of `motion_seeds`. variety: which set of people, of `VARIETIES`."""
    person = make_person(bank, seed, variety=variety)
    takes = [signing_motion(bank.model, person.identity, expression_names(), s, _TAKE_FRAMES) for s in motion_seeds]
    return Cast(index, seed, person, Motion.cat(takes), variety)


@dataclass(frozen=True)
class Realism:
    """Shares of the subjects that are as in tracked videos; the others are exact, behind the format's lens."""

    lenses: float = 0.0  # seen through a true lens
    tracker_errors: float = 0.0  # with the body and the cameras that a tracker would find


def person_views(
    bank_model: EhmModel, body: EhmModel, cast: Cast, tracked: int, others: int, size: int = 512, supersample: int = 2,
    realism: Realism | None = None,
) -> PersonViews:  # fmt: skip
    """Return pictures of one subject, a pose each: `tracked` from the tracked camera, `others` from new views.

    bank_model: the picture bank's model (helpers included), body: the shipped one; both on the device to draw on.
    realism: None: exact, behind the format's lens.
    """
    device, n = body.assets.faces.device, tracked + others
    rng = np.random.default_rng([cast.seed, 0x7A1])
    frames = torch.as_tensor(rng.choice(len(cast.motion), n, replace=False))
    motion, identity = cast.motion[frames], cast.person.identity
    real = np.random.default_rng([cast.seed, 0x1E45])  # its own, so that exact subjects are those of 0.1.0
    shares = realism or Realism()
    has_lens, has_errors = real.random(2) < (shares.lenses, shares.tracker_errors)
    viewmats, lenses = _cameras(cast.seed, rng, real if has_lens else None, tracked, others, size)
    skin, light = cast.person.skin.to(device), make_light(cast.seed, cast.variety).to(device)
    drawn = skin.vertices(bank_model(identity.to(device), motion.to(device)))
    images = []
    for i in range(n):
        camera = Cameras(viewmats[i : i + 1], lens_matrices(lenses[i], size, size), size, size).to(device)
        rgb, alpha = render_vertices(drawn[i : i + 1], skin, light, camera, supersample, near=bool(has_lens))
        images.append((torch.cat([rgb, alpha], 1)[0].clamp(0, 1) * 255 + 0.5).byte())
    exact = body(identity.to(device), motion.to(device))
    # tracked pictures have one lens, and so have new views
    groups = [slice(0, tracked), slice(tracked, n)]
    cameras = lambda at, views, lens: Cameras(views[at], lens_matrices(lens[at][0], size, size), size, size).to(device)
    boxes = [part_boxes(exact.joints[at], cameras(at, viewmats, lenses)) for at in groups if at.start < at.stop]
    posed = exact
    if has_errors:
        found = tracked_with_errors(body, Tracking(identity, motion, viewmats, lenses), real, known_lens=not has_lens)
        viewmats, lenses = found.viewmats, found.lenses
        posed = body(found.identity.to(device), found.motion.to(device))
    source = groups[0]
    seen = torch.zeros(n, len(body.assets.faces), dtype=torch.bool, device=device)
    seen[source], depth = source_visibility(
        posed.vertices[source], body.assets.faces, cameras(source, viewmats, lenses)
    )
    return PersonViews(
        images=torch.stack(images), vertices=posed.vertices, turns=vertex_turns(posed.vertex_transforms).half(),
        viewmats=viewmats.to(device), seen=seen, boxes=torch.cat(boxes),
        tracked=torch.arange(n, device=device) < tracked, depth=depth, lenses=lenses.to(device),
    )  # fmt: skip


def _cameras(
    seed: int, rng: np.random.Generator, lens: np.random.Generator | None, tracked: int, others: int, size: int
) -> tuple[Tensor, Tensor]:
    """Return [n, 4, 4] cameras and [n, 4] numbers of their lenses: the tracked one again and again, then new views.

    lens: draws the lens of all of them; None: the format's.
    """
    base, K, nearest = tracked_camera(seed), None, 0.0
    lenses = format_lenses(tracked + others)
    if lens is not None:
        base, numbers = through_lens(base, lens)
        K, nearest = lens_matrices(numbers, size, size), _NEAREST / float(base[2, 3])
        lenses = numbers.repeat(tracked + others, 1)
        lenses[tracked:, 2:] = 0  # as `fixed_camera` has it
    new = [
        fixed_camera(
            base, rng.uniform(-_YAW, _YAW), rng.uniform(-_PITCH, _PITCH), max(_zoom(rng), nearest), size, K=K
        ).viewmats[0]
        for _ in range(others)
    ]
    return torch.stack([base] * tracked + new), lenses


def through_lens(viewmat: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return a camera [4, 4] with a random lens that frames a person as `viewmat` [4, 4] does with the format's.

    The second result is the lens [4], the numbers of a `Lens`; its principal point is where a crop of a wider picture
    has it.
    """
    low, high = (math.log(a) for a in _FIELD_OF_VIEW)
    scale = 1 / math.tan(math.radians(math.exp(rng.uniform(low, high))) / 2)
    off = torch.as_tensor(rng.normal(0, _OFF_CENTER, 2).clip(-0.3, 0.3), dtype=torch.float32)
    near = viewmat.clone()
    near[2, 3] *= scale * TANFOV
    near[:2, 3] -= off * near[2, 3] / scale
    return near, torch.cat([torch.full((2,), scale), off])


def source_visibility(vertices: Tensor, faces: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Return [T, F] which faces own a pixel of the z-buffer, and its half-size depth as `PersonViews` has it."""
    F = len(faces)
    none = torch.zeros(F, dtype=torch.bool, device=faces.device)
    surface = Surface(faces, vertices.new_zeros(F, 3, 2), none, vertices.new_zeros(F), none.new_zeros(1, 1).byte())
    ids, bary = rasterize(surface, project(vertices, cameras, 1), cameras.width, cameras.height)
    out = torch.zeros(len(vertices), F + 1, dtype=torch.bool, device=faces.device)
    out.scatter_(1, ids.flatten(1) + 1, True)
    z = relative_depth(vertices, cameras.viewmats, vertices)  # [T, P]
    at = torch.stack([v[faces[i.clamp(min=0)]] for v, i in zip(z, ids, strict=True)])  # [T, H, W, 3]
    depth = torch.where(ids < 0, torch.inf, (at * bary).sum(-1))
    return out[:, 1:], nearest_depth(depth).half()


def part_boxes(joints: Tensor, cameras: Cameras) -> Tensor:
    """Return [T, 3, 4] square boxes (left, top, right, bottom in -1..1) of head and hands."""
    screen = (project(joints, cameras, 1)[..., :2] + 0.5) / cameras.width * 2 - 1
    parts = [list(_HEAD)] + [[f"{side}_{n}" for n in _HAND] for side in ("left", "right")]
    boxes = []
    for names, part in zip(parts, _MARGIN, strict=True):
        p = screen[:, [INDEX[n] for n in names]]
        low, high = p.amin(1), p.amax(1)
        center, half = (low + high) / 2, (high - low).amax(1, keepdim=True) * _MARGIN[part] / 2
        boxes.append(torch.cat([center - half, center + half], 1))
    return torch.stack(boxes, 1)


def generate(
    bank: Bank, out: Path, subjects: Sequence[int], device: torch.device | str, *, tracked: int = 8, others: int = 16,
    workers: int = 0, variety: str = MIXED, realism: Realism | None = None,
) -> Iterator[Path]:  # fmt: skip
    """Write one training subject after the other and yield their files. Existing ones are kept.

    variety: which set of people, one of `VARIETIES` or `MIXED`; held-out ones are of their own.
    """
    out.mkdir(parents=True, exist_ok=True)
    todo = [i for i in subjects if not _file(out, i).exists()]
    casts = _casts(bank, todo, workers, variety)  # starts the workers before the device is touched
    body = EhmModel(load_body_file(default_body_path(), uv_size=64).to(device))
    bank_model = EhmModel(bank.assets.to(device))
    for cast in casts:
        with torch.no_grad():
            person_views(bank_model, body, cast, tracked, others, realism=realism).save(_file(out, cast.index))
        yield _file(out, cast.index)


def _file(out: Path, index: int) -> Path:
    return out / f"person_{index:05d}.npz"


def _casts(bank: Bank, todo: list[int], workers: int, variety: str) -> Iterator[Cast]:
    jobs = [(i, variety) for i in todo]
    if not workers:
        return (_cast_training(bank, *job) for job in jobs)
    global _bank
    _bank = bank  # forked workers share it
    context = multiprocessing.get_context("fork")
    return _ahead(context.Pool(workers, initializer=_use_one_thread), jobs, 2 * workers)


def _use_one_thread() -> None:
    """Keep torch, OpenCV and numba of a worker to one core: with threads for all, many workers stand still."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    numba.set_num_threads(1)


def _ahead(pool: multiprocessing.pool.Pool, jobs: list[tuple[int, str]], most: int) -> Iterator[Cast]:
    """Yield casts in order, at most `most` of them made ahead of use."""
    waiting = deque(pool.apply_async(_cast_in_worker, job) for job in jobs[:most])
    for k in range(len(jobs)):
        cast = pickle.loads(waiting.popleft().get())
        if k + most < len(jobs):
            waiting.append(pool.apply_async(_cast_in_worker, jobs[k + most]))
        yield cast
    pool.close()


_bank: Bank | None = None


def _cast_in_worker(index: int, variety: str) -> bytes:
    """Return the cast pickled here: torch's own transport needs shared memory of its size."""
    assert _bank is not None
    return pickle.dumps(_cast_training(_bank, index, variety))


def _cast_training(bank: Bank, index: int, variety: str) -> Cast:
    for held_out, seeds in HELD_OUT.items():
        if index in seeds:
            return cast_person(bank, index, index, [index], held_out)
    if index not in TRAINING_SEEDS:
        raise ValueError(f"person {index} is held out; train on seeds of {TRAINING_SEEDS}")
    return cast_person(
        bank, index, index, [_MOTION_SEEDS + index * _TAKES + k for k in range(_TAKES)], variety_of(index, variety)
    )


def _zoom(rng: np.random.Generator) -> float:
    return math.exp(rng.uniform(math.log(_ZOOM[0]), math.log(_ZOOM[1])))
