"""Training material without end: for a random person, a source picture, a target picture, and other views.

All parameters are exact, because the pictures are made from them. Subjects come from seeds; a small set of seeds is
held out, never to be trained on, and `guava-aug evaluate` measures on those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.synthetic.backgrounds import make_light
from guava_aug.apps.synthetic.bank import Bank, expression_names
from guava_aug.apps.synthetic.motion import signing_motion
from guava_aug.apps.synthetic.render import Light, render_vertices
from guava_aug.apps.synthetic.scene import tracked_camera
from guava_aug.apps.synthetic.subjects import Person, make_person
from guava_aug.apps.synthetic.varieties import LIFELIKE, STANDARD
from guava_aug.body.ehm import EhmModel
from guava_aug.body.params import Identity, Motion
from guava_aug.views.cameras import Cameras, fixed_camera, intrinsics
from guava_aug.views.difficulty import DIFFICULTIES

HELD_OUT_SEEDS = tuple(range(9001, 9009))  # subjects, motion, light and camera of the evaluation
LIFELIKE_SEEDS = tuple(range(9101, 9109))  # the same of lifelike people
HELD_OUT = {STANDARD: HELD_OUT_SEEDS, LIFELIKE: LIFELIKE_SEEDS}  # set of people -> never trained on
CLIP_SEEDS = {"signer_a": 9101, "signer_b": 9115, "signer_c": 9106}  # the bundled clips; held out too
TRAINING_SEEDS = range(9000)
_HARD = DIFFICULTIES["hard"]
_NEVER = "seeds from 9000 on are held out; train on TRAINING_SEEDS"


@dataclass(frozen=True)
class Subject:
    """One person on a device, with the motion, light and tracked camera of the same seed."""

    seed: int
    person: Person
    motion: Motion
    light: Light
    viewmat: Tensor  # [4, 4]
    model: EhmModel

    @property
    def identity(self) -> Identity:
        """Return the body shape of the subject."""
        return self.person.identity


@dataclass(frozen=True)
class Pictures:
    """T pictures of one subject and what is behind them."""

    motion: Motion  # T frames
    cameras: Cameras  # T
    images: Tensor  # [T, 3, H, W] colour times alpha, 0..1, on black
    masks: Tensor  # [T, 1, H, W]


def make_subject(
    bank: Bank, seed: int, frames: int = 100, device: torch.device | str = "cpu", model: EhmModel | None = None,
    variety: str = STANDARD,
) -> Subject:  # fmt: skip
    """Return the subject of one seed; `model` is the bank's model on that device, so that many subjects share one.

    variety: which set of people the subject is of, one of `VARIETIES`.
    """
    person = make_person(bank, seed, device, variety=variety)
    motion = signing_motion(bank.model, person.identity, expression_names(), seed, frames)
    person = replace(person, identity=person.identity.to(device), skin=person.skin.to(device))
    return Subject(
        seed,
        person,
        motion.to(device),
        make_light(seed, variety).to(device),
        tracked_camera(seed).to(device),
        model or bank.model.to(device),
    )


def take_pictures(
    subject: Subject, frames: Tensor, viewmats: Tensor, size: int = 512, supersample: int = 2
) -> Pictures:
    """Return pictures of the chosen frames [T] (indices into the subject's motion) through the cameras [T, 4, 4]."""
    motion = subject.motion[frames]
    cameras = Cameras(viewmats, intrinsics(size, size).to(viewmats.device), size, size)
    vertices = subject.person.skin.vertices(subject.model(subject.identity, motion))
    images, masks = render_vertices(vertices, subject.person.skin, subject.light, cameras, supersample)
    return Pictures(motion, cameras, images, masks)


def random_viewmats(subject: Subject, count: int, rng: np.random.Generator) -> Tensor:
    """Return [count, 4, 4] new-view cameras, spread evenly over the widest difficulty (as the product makes them)."""
    source = subject.viewmat.cpu()
    drawn = [[rng.uniform(low, high) for low, high in (_HARD.yaw, _HARD.pitch, _HARD.zoom)] for _ in range(count)]
    found = [fixed_camera(source, yaw, pitch, zoom).viewmats[0] for yaw, pitch, zoom in drawn]
    return torch.stack(found).to(subject.viewmat.device) if found else subject.viewmat.new_zeros(0, 4, 4)


def training_pictures(
    subject: Subject, rng: np.random.Generator, targets: int = 4, size: int = 512
) -> tuple[Pictures, Pictures]:
    """Return a source picture (T = 1, tracked camera) and `targets` others, half of them from new cameras."""
    if subject.seed not in TRAINING_SEEDS:
        raise ValueError(_NEVER)
    frames = torch.from_numpy(rng.integers(0, len(subject.motion), targets + 1)).to(subject.viewmat.device)
    tracked = subject.viewmat.expand(targets + 1 - targets // 2, 4, 4)
    views = torch.cat([tracked, random_viewmats(subject, targets // 2, rng)])
    all_ = take_pictures(subject, frames, views, size)
    part = lambda s: Pictures(all_.motion[s], all_.cameras[s], all_.images[s], all_.masks[s])
    return part(slice(0, 1)), part(slice(1, None))
