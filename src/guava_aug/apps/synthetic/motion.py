"""Signing-like motion: two hands through many places and shapes, face, mouthing, blinks, head and torso.

It is no language. Wrists follow minimum-jerk paths between places around the upper body, two-bone inverse
kinematics finds the arms, hands keep clear of each other, and everything is a function of (seed, body).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from guava_aug.apps.synthetic.arrays import matrices, rotvecs, smooth
from guava_aug.apps.synthetic.assemble import still
from guava_aug.apps.synthetic.clearance import body_front, keep_clear
from guava_aug.apps.synthetic.handshapes import SHAPES, hand_rotations
from guava_aug.apps.synthetic.skeleton import PARENTS
from guava_aug.body.ehm import EhmModel
from guava_aug.body.joints import INDEX
from guava_aug.body.params import Identity, Motion

Array = NDArray[np.float64]
_Sides = dict[str, Array]  # "left", "right"
FPS = 25.0
_ARM = 0.535  # metres shoulder to wrist that the places below are given for
_WRIST_LIMIT = 1.15  # radians
_FOREARM_SHARE = 0.6  # of the hand's twist


@dataclass(frozen=True)
class Place:
    """Where a hand goes: wrist from its shoulder (out, up, front; metres), direction of the hand, palm normal."""

    wrist: tuple[float, float, float]
    direction: tuple[float, float, float]
    palm: tuple[float, float, float]
    shapes: tuple[str, ...]


REST = Place((-0.06, -0.40, 0.20), (-0.75, 0.05, 0.55), (0.0, -0.5, -0.8), ("rest",))
ONE_HAND = (
    Place(
        (-0.03, -0.08, 0.30),
        (-0.08, 1.0, 0.15),
        (0.05, -0.1, 1.0),
        ("five", "flat", "vee", "three", "ell", "why", "fist", "little", "pinch"),
    ),
    Place((0.10, -0.03, 0.26), (0.10, 1.0, 0.15), (0.0, -0.1, 1.0), ("five", "point", "vee", "claw", "why", "round")),
    Place((-0.10, -0.14, 0.31), (-0.70, 0.60, 0.35), (0.0, -0.35, 1.0), ("point", "vee", "ell", "hook")),
    Place(
        (-0.09, -0.06, 0.25), (-0.22, 1.0, 0.02), (-0.1, 0.0, -1.0), ("flat", "bent", "round", "point", "five")
    ),  # chin
    Place((0.05, 0.08, 0.19), (-0.35, 1.0, -0.02), (-0.7, -0.2, 0.6), ("flat", "point", "vee", "why")),  # temple
    Place((-0.08, -0.19, 0.23), (-1.0, 0.30, 0.25), (0.0, 0.05, -1.0), ("flat", "five", "claw", "fist")),  # chest
    Place((-0.04, -0.20, 0.32), (-0.35, 0.45, 0.80), (0.0, -1.0, 0.3), ("flat", "five", "point", "claw", "pinch")),
)
TWO_HANDS = (
    Place(
        (0.00, -0.15, 0.31), (-0.10, 0.55, 0.85), (-1.0, 0.0, 0.05), ("flat", "five", "claw", "round")
    ),  # palms together
    Place((0.00, -0.22, 0.29), (-0.30, 0.25, 0.90), (-0.1, 1.0, 0.1), ("flat", "five", "claw", "round")),  # palms up
    Place(
        (0.02, -0.19, 0.31), (-0.30, 0.40, 0.85), (0.0, -1.0, 0.2), ("flat", "five", "point", "why", "claw")
    ),  # palms down
    Place(
        (-0.02, -0.12, 0.28), (-0.45, 0.85, 0.25), (-0.4, -0.05, -1.0), ("flat", "five", "bent", "vee")
    ),  # to the body
    Place(
        (0.06, -0.06, 0.29), (0.0, 1.0, 0.2), (0.0, -0.1, 1.0), ("five", "fist", "point", "claw", "ell")
    ),  # palms out
)
BASE = Place(
    (-0.10, -0.25, 0.27), (-0.85, 0.20, 0.45), (0.0, 0.95, -0.3), ("flat", "fist")
)  # the still hand under a moving one
_VISEMES = (
    ("mouthPucker",),
    ("mouthFunnel",),
    ("mouthStretchLeft", "mouthStretchRight"),
    ("mouthSmileLeft", "mouthSmileRight"),
    ("mouthLowerDownLeft", "mouthLowerDownRight"),
    ("mouthPressLeft", "mouthPressRight"),
)
FULL_ACTION = 2.5  # expression coefficient of a whole facial action (see `bake`)


def signing_motion(
    model: EhmModel,
    identity: Identity,
    names: tuple[str, ...],
    seed: int,
    frames: int,
    fps: float = FPS,
    energy: float = 1.0,
) -> Motion:
    """Return T frames of signing in the tracker's world (the body turned upside down about x).

    names: the expression names of the body, in order. energy scales head, torso and face (0.6..1.2 looks alive).
    """
    rng = np.random.default_rng([seed, 0x51C4])
    posed = model(identity, still())
    joints = posed.joints_rest[0].double().numpy()
    t = np.arange(frames) / fps
    torso, head = _sway(rng, t, 0.035 * energy), _sway(rng, t, 0.085 * energy)
    world = _spine_globals(torso, head, frames)
    wrists, directions, palms, fingers = _plan(rng, frames, fps)
    scale = np.linalg.norm(joints[INDEX["left_shoulder"]] - joints[INDEX["left_wrist"]]) / _ARM
    wrists = {s: w * scale for s, w in wrists.items()}
    _look_at_hands(head, wrists, energy)
    world = _spine_globals(torso, head, frames)
    _shrug(world, wrists)
    positions = _upper_positions(world, joints, frames)
    targets = {side: positions[:, INDEX[f"{side}_shoulder"]] + w for side, w in wrists.items()}
    targets = keep_clear(targets, directions, body_front(model, posed.vertices[0].double().numpy()))
    for side in ("left", "right"):
        _arm(world, positions, joints, side, targets[side], directions[side], palms[side])
    local = np.zeros((frames, 55, 3))
    for j in range(1, 25):
        local[:, j] = rotvecs(np.transpose(world[PARENTS[j]], (0, 2, 1)) @ world[j])
    yaw = _sway(rng, t, 0.03)[:, 1]
    # half a turn about x after `yaw` about y, written so that the vector moves smoothly
    turn = np.pi * np.stack([np.cos(yaw / 2), 0 * yaw, np.sin(yaw / 2)], 1)
    face = _face(rng, t, names, energy)
    f32 = lambda a: torch.tensor(np.ascontiguousarray(a), dtype=torch.float32)
    return Motion(
        global_orient=f32(turn),
        body_pose=f32(local[:, 1:22]),
        left_hand_pose=f32(hand_rotations(fingers["left"], 1.0)),
        right_hand_pose=f32(hand_rotations(fingers["right"], -1.0)),
        expression=f32(face["expression"]),
        flame_expression=f32(face["expression"]),
        jaw_pose=f32(face["jaw"]),
        eye_pose=f32(face["eyes"]),
        eyelids=f32(face["lids"]),
    )


# ---- the plan: what each hand does when


def _plan(rng: np.random.Generator, frames: int, fps: float) -> tuple[_Sides, _Sides, _Sides, _Sides]:
    """Return wrist positions, hand directions, palm normals [T, 3], shapes [T, 15] per side (left mirrored in x)."""
    keys: dict[str, list[tuple[float, Place, str, Array]]] = {"left": [], "right": []}
    main, other = ("right", "left") if rng.random() < 0.85 else ("left", "right")
    time, last = -0.35 * rng.random(), frames / fps
    while time < last + 1.0:
        jitter = lambda: rng.normal(0, (0.022, 0.022, 0.012))
        kind = rng.random()
        if kind < 0.45:
            place = ONE_HAND[rng.integers(len(ONE_HAND))]
            chosen = {main: place, other: REST if rng.random() < 0.6 else BASE}
        elif kind < 0.85:
            place = TWO_HANDS[rng.integers(len(TWO_HANDS))]
            chosen = {main: place, other: place}
        else:
            chosen = {main: ONE_HAND[-1], other: BASE}
        shape = chosen[main].shapes[rng.integers(len(chosen[main].shapes))]
        for side, p in chosen.items():
            mine = shape if p is chosen[main] else p.shapes[rng.integers(len(p.shapes))]
            delay = 0.0 if side == main else rng.uniform(0, 0.06)
            keys[side].append((time + delay, p, mine, jitter()))
        hold = rng.uniform(0.28, 0.5)
        # the movement within a sign: a short second stroke
        if rng.random() < 0.75:
            stroke = rng.normal(0, (0.035, 0.04, 0.03))
            again = shape if rng.random() < 0.6 else chosen[main].shapes[rng.integers(len(chosen[main].shapes))]
            for side, p in chosen.items():
                moving = side == main or p is chosen[main]
                keys[side].append(
                    (time + hold, p, again if moving else keys[side][-1][2], keys[side][-1][3] + stroke * moving)
                )
            hold += rng.uniform(0.22, 0.4)
        time += hold + rng.uniform(0.15, 0.3)
    wrists, directions, palms, fingers = {}, {}, {}, {}
    t = np.arange(frames) / fps
    for side, ks in keys.items():
        mirror = np.array([1.0 if side == "left" else -1.0, 1, 1])
        times = np.array([k[0] for k in ks])
        path = lambda values, lead=1.0, times=times: _minimum_jerk(times, np.array(values), t, lead)
        wrists[side] = smooth(path([np.array(k[1].wrist) + k[3] for k in ks]) * mirror, 1.2)
        directions[side] = smooth(path([k[1].direction for k in ks]) * mirror, 1.2)
        palms[side] = smooth(path([k[1].palm for k in ks]) * mirror, 1.2)
        fingers[side] = smooth(path([SHAPES[k[2]].vector() for k in ks], 0.8), 0.9)
    return wrists, directions, palms, fingers


def _minimum_jerk(times: Array, values: Array, t: Array, lead: float) -> Array:
    """Return values [T, n] that rest at each key and move between them along a minimum-jerk profile."""
    i = np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
    span = times[i + 1] - times[i]
    u = np.clip((t - times[i]) / np.maximum(span * lead * 0.92, 1e-3), 0, 1)
    u = u**3 * (u * (6 * u - 15) + 10)
    return values[i] * (1 - u[:, None]) + values[i + 1] * u[:, None]


def _sway(rng: np.random.Generator, t: Array, size: float) -> Array:
    """Return [T, 3] slow band-limited wander of standard deviation `size` radians (pitch a little less)."""
    out = np.zeros((len(t), 3))
    for axis in range(3):
        for frequency in (0.23, 0.41, 0.77, 1.3):
            amplitude = rng.normal() / (1 + 2.2 * frequency)
            out[:, axis] += amplitude * np.sin(2 * np.pi * (frequency * t * rng.uniform(0.85, 1.15) + rng.random()))
    return out * size * np.array([0.7, 1.0, 0.6])


# ---- the body


def _spine_globals(torso: Array, head: Array, frames: int) -> list[Array]:
    """Return world rotations [T, 3, 3] of joints 0..24 as far as spine and head decide them."""
    eye = np.tile(np.eye(3), (frames, 1, 1))
    G = [eye] * 25
    for j, share in ((3, 0.33), (6, 0.66), (9, 1.0)):
        G[j] = matrices(torso * share)
    for j in (13, 14, 16, 17, 18, 19, 20, 21):
        G[j] = G[9]
    G[12] = matrices(0.5 * head + 0.3 * torso)
    for j in (15, 22, 23, 24):
        G[j] = matrices(head + 0.2 * torso)
    return G


def _look_at_hands(head: Array, wrists: dict[str, Array], energy: float) -> None:
    """Turn the head a little towards the higher hand."""
    pull = sum(
        np.clip(w[:, 1:2] + 0.3, 0, 0.4) * np.sign(w[:, :1].mean() if s == "left" else 1) for s, w in wrists.items()
    )
    lean = sum(
        (w[:, 0:1] + (0.17 if s == "left" else -0.17)) * np.clip(w[:, 1:2] + 0.3, 0, 0.4) for s, w in wrists.items()
    )
    head[:, 1:2] += 0.5 * energy * smooth(np.asarray(lean), 4)
    head[:, 0:1] += 0.10 * energy * smooth(np.asarray(pull) - np.mean(pull), 6)


def _shrug(world: list[Array], wrists: dict[str, Array]) -> None:
    """Make collars follow raised and forward arms."""
    for side, j, s in (("left", 13, 1.0), ("right", 14, -1.0)):
        up = smooth(np.clip(wrists[side][:, 1] + 0.15, -0.1, 0.4), 2)
        front = smooth(np.clip(wrists[side][:, 2] - 0.2, 0, 0.2), 2)
        extra = matrices(np.stack([0 * up, -s * 0.5 * front, s * 0.45 * up], 1))
        world[j] = world[9] @ extra


def _upper_positions(world: list[Array], joints: Array, frames: int) -> Array:
    """Return [T, 25, 3] joint positions as far as the spine and collars decide them."""
    p = np.zeros((frames, 25, 3))
    p[:, 0] = joints[0]
    for j in range(1, 18):
        p[:, j] = p[:, PARENTS[j]] + world[PARENTS[j]] @ (joints[j] - joints[PARENTS[j]])
    return p


def _arm(
    world: list[Array], positions: Array, joints: Array, side: str, target: Array, direction: Array, palm: Array
) -> None:
    """Set the world rotations of shoulder, elbow and wrist that bring the wrist to `target`."""
    s = 1.0 if side == "left" else -1.0
    X, hinge_rest = np.array([s, 0, 0]), np.array([0, -s, 0.0])
    shoulder, elbow, wrist = (INDEX[f"{side}_{n}"] for n in ("shoulder", "elbow", "wrist"))
    start = positions[:, shoulder]
    a = np.linalg.norm(joints[elbow] - joints[shoulder])
    b = np.linalg.norm(joints[wrist] - joints[elbow])
    to = target - start
    reach = np.clip(np.linalg.norm(to, axis=1, keepdims=True), 0.32 * (a + b), 0.985 * (a + b))
    u = _unit(to)
    x = (a * a - b * b + reach**2) / (2 * reach)
    h = np.sqrt(np.clip(a * a - x * x, 1e-8, None))
    pole = np.array([s * 0.75, -1.0, -0.35])
    pole = _unit(pole - u * (u @ pole)[:, None])
    mid = start + u * x + pole * h
    end = start + u * reach
    upper, fore = _unit(mid - start), _unit(end - mid)
    hinge = _unit(np.cross(upper, fore))
    rest = _frames(X[None], hinge_rest[None])
    world[shoulder] = _frames(upper, hinge) @ np.transpose(rest, (0, 2, 1))
    bent = _frames(fore, hinge) @ np.transpose(rest, (0, 2, 1))
    along = _unit(direction)
    normal = _unit(palm - along * (palm * along).sum(1, keepdims=True))
    hand = _frames(along, -normal) @ np.transpose(_frames(X[None], np.array([[0, 1.0, 0]])), (0, 2, 1))
    relative = np.transpose(bent, (0, 2, 1)) @ hand
    q = np.stack([relative[:, 2, 1] - relative[:, 1, 2]], 1)[:, 0] * s
    twist = np.unwrap(np.arctan2(q, relative[:, 1, 1] + relative[:, 2, 2]))
    twist -= 2 * np.pi * np.round(np.median(twist) / (2 * np.pi))
    twist = smooth(np.clip(twist, -2.2, 2.2), 1.0)
    world[elbow] = bent @ matrices(_FOREARM_SHARE * twist[:, None] * X)
    left = rotvecs(np.transpose(world[elbow], (0, 2, 1)) @ hand)
    size = np.linalg.norm(left, axis=1, keepdims=True)
    limited = left * (_WRIST_LIMIT * np.tanh(size / _WRIST_LIMIT) / np.maximum(size, 1e-9))
    world[wrist] = world[elbow] @ matrices(smooth(limited, 1.0))


def _unit(v: Array) -> Array:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _frames(a: Array, b: Array) -> Array:
    return np.stack([a, b, np.cross(a, b)], -1)


# ---- the face


def _face(rng: np.random.Generator, t: Array, names: tuple[str, ...], energy: float) -> dict[str, Array]:
    T = len(t)
    expression = np.zeros((T, 50))
    column = {n: i for i, n in enumerate(names)}

    def add(values: Array, *actions: str) -> None:
        for a in actions:
            expression[:, column[a]] += FULL_ACTION * values

    # a face at rest is friendly and awake
    add(np.full(T, rng.uniform(0.05, 0.22)), "mouthSmileLeft", "mouthSmileRight")
    add(np.full(T, rng.uniform(0.10, 0.35)), "browInnerUp")
    # mouthing: syllables at 3..5 a second within words
    jaw = np.zeros(T)
    time = rng.uniform(0, 0.4)
    while time < t[-1] + 0.5:
        for _ in range(rng.integers(1, 4)):
            length = rng.uniform(0.16, 0.3)
            bump = np.exp(-(((t - time) / (0.38 * length)) ** 2))
            jaw += rng.uniform(0.02, 0.15) * bump
            add(rng.uniform(0.2, 0.6) * bump, *_VISEMES[rng.integers(len(_VISEMES))])
            time += length
        time += rng.uniform(0.15, 0.6)
    # brows and a mood that come and go
    for actions, size in (
        (("browInnerUp", "browOuterUpLeft", "browOuterUpRight"), 0.55),
        (("browDownLeft", "browDownRight"), 0.18),
        (("mouthSmileLeft", "mouthSmileRight"), 0.5),
        (("eyeSquintLeft", "eyeSquintRight"), 0.3),
        (("cheekPuff",), 0.25),
    ):
        wave = sum(rng.normal() * np.sin(2 * np.pi * (f * t + rng.random())) for f in (0.21, 0.47, 0.83))
        add(energy * size * np.clip(np.asarray(wave) * 0.55, 0, 1), *actions)
    lids = np.zeros((T, 2))
    time = rng.uniform(0.3, 1.6)
    while time < t[-1] + 0.3:
        lids += np.clip(np.exp(-(((t - time) / 0.075) ** 2)) * 1.05, 0, 1)[:, None]
        time += rng.uniform(1.2, 3.2)
    gaze = np.zeros((T, 2, 3))
    steps = np.cumsum(rng.random(T) < 1.2 / FPS)
    aims = rng.normal(0, (0.05, 0.10), (steps[-1] + 1, 2))
    gaze[:, :, 0], gaze[:, :, 1] = aims[steps, :1], aims[steps, 1:]
    jaw_pose = np.zeros((T, 3))
    jaw_pose[:, 0] = np.clip(smooth(jaw, 0.8), 0, 0.28)
    return {
        "expression": np.clip(smooth(expression, 0.8), 0, 2.5),
        "jaw": jaw_pose,
        "eyes": smooth(gaze, 0.5),
        "lids": np.clip(lids, 0, 1),
    }
