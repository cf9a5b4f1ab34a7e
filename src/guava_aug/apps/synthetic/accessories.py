"""Glasses, jewellery, wristbands and scarves: simple meshes around the person's own shape, hung on the body.

All are made in the T pose of one identity, so they fit its face and wrists. Glasses hang on one vertex of the skull and
move as a rigid body with the head; everything else hangs on the vertices next to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guava_aug.apps.synthetic.bank import Bank, Floats, Ints, Proxy
from guava_aug.apps.synthetic.paint import Image
from guava_aug.body.joints import INDEX

_RIM = 28  # points around a lens
_SIDES = 6  # of a tube
_FLAT = 1e-3  # metres
_SWATCHES = 4  # colours along each side of a colour chart
_FRAME, _LENS = 0, 1  # swatches of glasses
_SKULL_MOVES = 5e-5  # metres per unit expression: a vertex of the skull moves less
_LAPS = 48  # points around a neck or a wrist


@dataclass(frozen=True)
class Mesh:
    """Triangles in the T pose, each of one colour or with coordinates of its own."""

    points: Floats  # [n, 3] metres
    faces: Ints  # [F, 3]
    texcoords: Floats  # [n, 2] 0..1, v down

    @staticmethod
    def join(parts: list[Mesh]) -> Mesh:
        """Return all parts as one."""
        starts = np.cumsum([0, *(len(p.points) for p in parts)])
        return Mesh(
            np.concatenate([p.points for p in parts]).astype(np.float32),
            np.concatenate([p.faces + s for p, s in zip(parts, starts[:-1], strict=True)]),
            np.concatenate([p.texcoords for p in parts]).astype(np.float32),
        )


@dataclass(frozen=True)
class Frames:
    """A pair of glasses. Lengths in metres."""

    width: float  # half of a lens
    height: float
    squareness: float  # 2 is an ellipse, larger is squarer
    drop: float  # how much narrower a lens is below, share
    rim: float  # radius of the rim
    tinted: bool  # opaque lenses
    color: Floats  # [3] of the frame
    lens: Floats  # [3]


def pick_frames(rng: np.random.Generator) -> Frames:
    """Return random glasses: thin, thick, round or square, one in five with dark lenses."""
    width = float(rng.uniform(0.021, 0.029))
    dark = [(0.03, 0.03, 0.03), (0.16, 0.08, 0.05), (0.45, 0.36, 0.18), (0.55, 0.55, 0.57), (0.10, 0.12, 0.25)]
    color = np.asarray(dark[rng.integers(len(dark))]) if rng.random() < 0.8 else rng.uniform(0.05, 0.8, 3)
    return Frames(
        width=width, height=float(width * rng.uniform(0.62, 1.0)), squareness=float(rng.uniform(2, 4.5)),
        drop=float(rng.uniform(0, 0.25)), rim=float(rng.choice([0.0011, 0.0015, 0.0022, 0.0032])),
        tinted=bool(rng.random() < 0.2), color=color.astype(np.float32),
        lens=np.asarray([(0.02, 0.02, 0.025), (0.06, 0.04, 0.03), (0.05, 0.07, 0.10)][rng.integers(3)], np.float32),
    )  # fmt: skip


def glasses(bank: Bank, rest: Floats, joints: Floats, style: Frames) -> Proxy:
    """Return glasses on the nose of the person whose vertices [P, 3] and joints [J, 3] in the T pose are given."""
    head = bank.assets.body.lbs_weights[: bank.shipped, INDEX["head"]].numpy() > 0.9
    face = rest[: bank.shipped][head]
    eyes = {s: joints[INDEX[f"{s}_eye"]] for s in ("left", "right")}
    middle = (eyes["left"] + eyes["right"]) / 2
    half = abs(eyes["left"][0] - eyes["right"][0]) / 2
    near = lambda x, y, dx, dy: face[(np.abs(np.abs(face[:, 0]) - x) < dx) & (np.abs(face[:, 1] - y) < dy)]
    most = lambda p, axis, otherwise: float(p[:, axis].max()) if len(p) else otherwise
    inner = max(half - style.width, 0.006)
    # in front of the lashes, the brows and the flanks of the nose
    clear = [most(near(half, middle[1], style.width, 0.02), 2, middle[2] + 0.012) + 0.006]
    clear.append(most(near(inner, middle[1] - 0.006, 0.004, 0.008), 2, middle[2]) + 0.002)
    plane = max(*clear, middle[2] + 0.019)
    bow = lambda x: plane - 2.2 * np.maximum(np.abs(x) - 0.02, 0) ** 2
    parts: list[Mesh] = []
    angle = np.linspace(0, 2 * np.pi, _RIM, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    power = 2 / style.squareness
    outline = np.stack(
        [np.sign(c) * np.abs(c) ** power * style.width, np.sign(s) * np.abs(s) ** power * style.height], 1
    )
    outline[:, 0] *= 1 - style.drop * np.clip(-outline[:, 1] / style.height, 0, 1)
    ear = near(0.0, middle[1] - 0.005, 9.0, 0.03)
    ear = ear[np.abs(ear[:, 0]) > np.abs(ear[:, 0]).max() - 0.012]
    ear_z = float(np.median(ear[:, 2]))
    for sign in (1.0, -1.0):
        x = sign * max(half, style.width + 0.008) + outline[:, 0] * sign
        ring = np.stack([x, middle[1] - 0.003 + outline[:, 1], bow(x)], 1)
        parts.append(tube(ring, style.rim, _FRAME, closed=True))
        if style.tinted:
            parts.append(_fan(ring, _LENS))
        outer = ring[np.argmax(np.abs(ring[:, 0]))]
        hinge = np.array([sign * (abs(outer[0]) + 0.003), middle[1] + 0.5 * style.height, outer[2] - 0.002])
        temple = face[(np.abs(face[:, 1] - hinge[1]) < 0.010) & (face[:, 2] > ear_z + 0.012) & (face[:, 2] < hinge[2])]
        side = max(most(np.abs(temple), 0, 0.07) + 0.003 + style.rim, abs(hinge[0]) * 0.97)
        root = np.array([sign * side, hinge[1] + 0.002, ear_z])
        tail = np.array([sign * (side - 0.006), hinge[1] - 0.028, ear_z - 0.016])
        start = ring[np.argmin(np.abs(ring - hinge).sum(1))]
        path = np.array(
            [start, hinge, hinge + 0.5 * (root - hinge), root, 0.5 * (root + tail) + [0, 0.006, -0.002], tail]
        )
        parts.append(tube(path, max(style.rim * 0.9, 0.001), _FRAME, flat=0.6))
    lens_x = max(half, style.width + 0.008) - style.width
    bridge_y = middle[1] + 0.25 * style.height
    bridge_z = most(near(0.0, bridge_y, 0.006, 0.006), 2, plane) + 0.002 + style.rim
    span = np.linspace(-lens_x - 0.001, lens_x + 0.001, 5)
    lift = 1 - (span / span[-1]) ** 2
    parts.append(
        tube(
            np.stack(
                [span, bridge_y + 0.003 * lift, np.maximum(bow(span), bridge_z * lift + bow(span) * (1 - lift))], 1
            ),
            max(style.rim, 0.001),
            _FRAME,
        )
    )
    return rigid(bank, Mesh.join(parts), rest, "glasses")


def rigid(bank: Bank, mesh: Mesh, rest: Floats, name: str) -> Proxy:
    """Return the mesh hung on one vertex of the skull: it turns and moves with the head and with nothing else."""
    moves = np.zeros(len(rest))
    moves[bank.assets.head_to_body.numpy()] = bank.assets.head.exprdirs.norm(dim=1).amax(-1).numpy()
    skull = (bank.assets.body.lbs_weights[: bank.shipped, INDEX["head"]].numpy() > 0.99) & (
        moves[: bank.shipped] < _SKULL_MOVES
    )
    ids = np.flatnonzero(skull)
    anchor = ids[np.argmin(np.linalg.norm(rest[ids] - mesh.points.mean(0), axis=1))]
    return on_vertex(mesh, rest, int(anchor), name)


def on_vertex(mesh: Mesh, rest: Floats, anchor: int, name: str) -> Proxy:
    """Return the mesh hung on one vertex of the body, so that it does not bend."""
    n = len(mesh.points)
    weights = np.tile(np.array([1, 0, 0], np.float32), (n, 1))
    return _proxy(name, mesh, np.full((n, 3), anchor), weights, mesh.points - rest[anchor])


def hang(bank: Bank, mesh: Mesh, rest: Floats, name: str, count: int = 3) -> Proxy:
    """Return the mesh hung on the `count` body vertices nearest to each of its points."""
    body = torch.from_numpy(rest[: bank.shipped])
    found = torch.cdist(torch.from_numpy(mesh.points), body).topk(count, largest=False)
    near = 1 / (found.values + 0.004)
    weights = (near / near.sum(1, keepdim=True)).numpy().astype(np.float32)
    ids = found.indices.numpy()
    at = (rest[ids] * weights[..., None]).sum(1)
    return _proxy(name, mesh, ids, weights, mesh.points - at)


def joined(name: str, parts: list[Proxy]) -> Proxy:
    """Return meshes that hang on equally many vertices as one."""
    mesh = Mesh.join([Mesh(p.offsets, p.faces, p.texcoords) for p in parts])
    cat = lambda values: np.concatenate(list(values))
    return _proxy(name, mesh, cat(p.ids for p in parts), cat(p.weights for p in parts), mesh.points)


def earrings(bank: Bank, rest: Floats, joints: Floats, rng: np.random.Generator) -> Mesh:
    """Return studs, drops or hoops at the lobes."""
    head = bank.assets.body.lbs_weights[: bank.shipped, INDEX["head"]].numpy() > 0.9
    eye_y = joints[INDEX["left_eye"], 1]
    size = float(rng.choice([rng.uniform(0.003, 0.005), rng.uniform(0.008, 0.022)]))
    parts = []
    for sign in (1.0, -1.0):
        side = rest[: bank.shipped][head & (sign * rest[: bank.shipped, 0] > 0.05)]
        ear = side[(side[:, 1] < eye_y + 0.01) & (side[:, 1] > eye_y - 0.06)]
        ear = ear[sign * ear[:, 0] > (sign * ear[:, 0]).max() - 0.016]
        lobe = ear[np.argmin(ear[:, 1])] + [sign * 0.002, 0.004, 0.001]
        if size < 0.006:
            parts.append(_ball(lobe + [sign * 0.001, 0, 0], size, 0))
        else:
            a = np.linspace(0, 2 * np.pi, 20, endpoint=False)
            ring = lobe + np.stack([0 * a, size * (np.cos(a) - 1), size * np.sin(a)], 1)
            parts.append(tube(ring, 0.0012, 0, closed=True))
    return Mesh.join(parts)


def necklace(bank: Bank, rest: Floats, joints: Floats, rng: np.random.Generator) -> Mesh:
    """Return a chain around the neck that falls to the chest."""
    drop, radius = float(rng.uniform(0.03, 0.13)), float(rng.choice([0.001, 0.0018, 0.004]))
    neck = joints[INDEX["neck"]]
    a = np.linspace(0, 2 * np.pi, _LAPS, endpoint=False)
    front = np.clip(np.cos(a), 0, 1)
    height = neck[1] + 0.005 - 0.02 * np.abs(np.sin(a)) - drop * front**1.5
    ring = _surface_ring(bank, rest, neck, a, height, 0.001 + radius)
    parts = [tube(ring, radius, 0, closed=True)]
    if rng.random() < 0.6:
        parts.append(_ball(ring[0] - [0, 0.006, -0.002], float(rng.uniform(0.004, 0.010)), 0))
    return Mesh.join(parts)


def scarf(bank: Bank, rest: Floats, joints: Floats, rng: np.random.Generator) -> Mesh:
    """Return a soft ring around the neck (texture: u once around, v once across), or a turtleneck."""
    neck = joints[INDEX["neck"]]
    turtleneck = rng.random() < 0.4
    a = np.linspace(0, 2 * np.pi, _LAPS + 1)
    up = joints[INDEX["head"]] - neck
    low, high = (0.0, 0.055) if turtleneck else (-0.005, 0.05)
    rows = []
    thick = float(rng.uniform(0.018, 0.034))
    waves = rng.uniform(0, 6.28, 3)
    for b in np.linspace(0, 1, 9):
        if turtleneck:
            height = neck[1] - 0.018 + low + (high - low) * b - 0.012 * np.clip(np.cos(a), 0, 1)
            stand = 0.010 + 0.002 * np.sin(b * 25) + 0 * a
        else:
            turn = np.pi * (1.25 * b - 0.35)
            height = neck[1] + low + 0.02 + 1.1 * thick * np.sin(turn - 0.4) - 0.03 * np.clip(np.cos(a), 0, 1)
            wobble = 1 + 0.25 * np.sin(3 * a + waves[0]) * np.sin(2 * turn + waves[1]) + 0.15 * np.sin(7 * a + waves[2])
            stand = 0.012 + thick * np.cos(turn - 0.4) * wobble
        center = neck + up * ((height.mean() - neck[1]) / up[1])
        rows.append(_surface_ring(bank, rest, center, a, height, np.maximum(stand, 0.004)))
    grid = np.stack(rows)  # [R, A, 3]
    r, n = grid.shape[:2]
    u, v = np.meshgrid(np.linspace(0, 1, n), np.linspace(1, 0, r))
    return Mesh(
        grid.reshape(-1, 3).astype(np.float32),
        _strip(r, n, False),
        np.stack([u, v], -1).reshape(-1, 2).astype(np.float32),
    )


def wristband(bank: Bank, rest: Floats, joints: Floats, side: str, rng: np.random.Generator) -> Mesh:
    """Return a watch or a bracelet above the wrist."""
    wrist, elbow = joints[INDEX[f"{side}_wrist"]], joints[INDEX[f"{side}_elbow"]]
    back = (elbow - wrist) / np.linalg.norm(elbow - wrist)
    at = wrist + back * rng.uniform(0.012, 0.035)
    up = np.array([0.0, 1, 0])
    ahead = np.cross(back, up)
    arm = rest[: bank.shipped]
    arm = arm[np.abs((arm - at) @ back) < 0.014]
    arm = arm[np.linalg.norm(arm - at, axis=1) < 0.08]
    a = np.linspace(0, 2 * np.pi, _LAPS, endpoint=False)
    radius = _radii(arm - at, ahead, up, a, 0.35, 0.022) + 0.0025
    out = np.cos(a)[:, None] * ahead + np.sin(a)[:, None] * up
    watch = rng.random() < 0.6
    half = float(rng.uniform(0.007, 0.011)) if watch else float(rng.choice([0.0015, 0.004, 0.012]))
    rows = [at + out * (radius + 0.001 * (abs(o) < 1))[:, None] + back * half * o for o in (-1, -0.5, 0.5, 1)]
    swatch = int(rng.integers(1, _SWATCHES**2))
    parts = [_grid(np.stack(rows), swatch, closed=True)]
    if watch:
        top = at + up * (radius[_LAPS // 4] + 0.003)
        b = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        dial = top + 0.016 * (np.cos(b)[:, None] * ahead + np.sin(b)[:, None] * back)
        parts += [_grid(np.stack([dial, dial + up * 0.004]), 0, closed=True), _fan(dial + up * 0.004, 2)]
    return Mesh.join(parts)


def finger_ring(bank: Bank, rest: Floats, joints: Floats, side: str, finger: str) -> Proxy:
    """Return a ring on the lowest limb of one finger; it moves with the bone and does not bend."""
    a, b = joints[INDEX[f"{side}_{finger}1"]], joints[INDEX[f"{side}_{finger}2"]]
    axis = (b - a) / np.linalg.norm(b - a)
    at = a + 0.65 * (b - a)
    follows = bank.assets.body.lbs_weights[: bank.shipped, INDEX[f"{side}_{finger}1"]].numpy()
    ids = np.flatnonzero((follows > 0.6) & (np.abs((rest[: bank.shipped] - at) @ axis) < 0.004))
    near = rest[ids] - at
    near = near - (near @ axis)[:, None] * axis
    center = (near.min(0) + near.max(0)) / 2
    up = np.array([0.0, 1, 0]) - axis[1] * axis
    up /= np.linalg.norm(up)
    t = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    radius = _radii(near - center, np.cross(axis, up), up, t, 0.4, 0.008) + 0.0005
    ring = at + center + radius[:, None] * (np.cos(t)[:, None] * np.cross(axis, up) + np.sin(t)[:, None] * up)
    return on_vertex(tube(ring, 0.0013, 0, closed=True), rest, int(ids[np.argmax(follows[ids])]), "ring")


def swatches(colors: Floats, size: int) -> Image:
    """Return a chart [size, size, 4] of up to 16 colours [n, 3] 0..1, a square each."""
    cells = np.zeros((_SWATCHES**2, 3), np.float32)
    cells[: len(colors)] = colors
    big = cells.reshape(_SWATCHES, _SWATCHES, 3).repeat(size // _SWATCHES, 0).repeat(size // _SWATCHES, 1)
    image = (np.clip(big, 0, 1) * 255 + 0.5).astype(np.uint8)
    return np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])


def tube(path: NDArray[np.floating], radius: float, swatch: int, closed: bool = False, flat: float = 1.0) -> Mesh:
    """Return a tube along a path [n, 3]. flat: thickness across the up direction over thickness along it."""
    ahead = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    if not closed:
        ahead[0], ahead[-1] = path[1] - path[0], path[-1] - path[-2]
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-9)
    mean = ahead.mean(0) if not closed else np.cross(path[0] - path.mean(0), path[len(path) // 4] - path.mean(0))
    helper = np.eye(3)[np.argmin(np.abs(mean))] if not closed else mean / np.linalg.norm(mean)
    a = np.cross(helper, ahead)
    a /= np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-9)
    b = np.cross(ahead, a)
    t = np.linspace(0, 2 * np.pi, _SIDES, endpoint=False)
    rows = np.stack([path + radius * (flat * np.cos(x) * a + np.sin(x) * b) for x in t])
    grid = _grid(np.concatenate([rows, rows[:1]]), swatch, closed=closed)
    if closed:
        return grid
    ends = [_fan(rows[:, i], swatch) for i in (0, -1)]
    return Mesh.join([grid, *ends])


def _ball(center: Floats, radius: float, swatch: int) -> Mesh:
    a, b = np.linspace(0, 2 * np.pi, 10, endpoint=False), np.linspace(0.05, np.pi - 0.05, 6)
    rows = [center + radius * np.stack([np.sin(x) * np.cos(a), np.cos(x) + 0 * a, np.sin(x) * np.sin(a)], 1) for x in b]
    return _grid(np.stack(rows), swatch, closed=True)


def _fan(ring: NDArray[np.floating], swatch: int) -> Mesh:
    n = len(ring)
    points = np.concatenate([ring, ring.mean(0, keepdims=True)])
    k = np.arange(n)
    return Mesh(
        points.astype(np.float32), np.stack([k, (k + 1) % n, np.full(n, n)], 1), _swatch_at(swatch, len(points))
    )  # fmt: skip


def _grid(rows: NDArray[np.floating], swatch: int, closed: bool) -> Mesh:
    r, n = rows.shape[:2]
    points = rows.reshape(-1, 3).astype(np.float32)
    return Mesh(points, _strip(r, n, closed), _swatch_at(swatch, len(points)))


def _strip(rows: int, columns: int, closed: bool) -> Ints:
    last = columns if closed else columns - 1
    i, j = np.meshgrid(np.arange(rows - 1), np.arange(last), indexing="ij")
    k = (j + 1) % columns
    a, b, c, d = i * columns + j, i * columns + k, (i + 1) * columns + j, (i + 1) * columns + k
    return np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])


def _swatch_at(swatch: int, count: int) -> Floats:
    row, column = divmod(swatch, _SWATCHES)
    return np.tile(np.array([(column + 0.5) / _SWATCHES, (row + 0.5) / _SWATCHES], np.float32), (count, 1))


def _radii(
    points: NDArray[Any], x: NDArray[Any], y: NDArray[Any], angles: NDArray[Any], spread: float, otherwise: float
) -> NDArray[Any]:
    """Return [n] how far points [m, 3] reach from the axis at these angles from x to y, smoothed around.

    spread: radians either way that count. otherwise: metres, where there are none.
    """
    around, far = np.arctan2(points @ y, points @ x), np.hypot(points @ x, points @ y)
    near = [far[np.abs(np.angle(np.exp(1j * (around - a)))) < spread] for a in angles]
    radius = np.array([np.median(f) if len(f) else otherwise for f in near])
    n = len(angles)
    return np.asarray(np.convolve(np.tile(radius, 3), np.ones(3) / 3, "same")[n : 2 * n])


def _surface_ring(
    bank: Bank,
    rest: Floats,
    center: Floats,
    angles: NDArray[Any],
    heights: NDArray[Any],
    stand_off: NDArray[Any] | float,
) -> NDArray[Any]:
    """Return [n, 3] points around the trunk's axis at these heights, `stand_off` metres outside the body.

    angles: 0 is the front, a quarter turn is the person's left.
    """
    skinning = bank.assets.body.lbs_weights[: bank.shipped].numpy()
    trunk = skinning[:, [INDEX[n] for n in ("neck", "spine3", "spine2", "head", "left_collar", "right_collar")]].sum(1)
    body = rest[: bank.shipped][trunk > 0.5]
    around = np.arctan2(body[:, 0] - center[0], body[:, 2] - center[2])
    far = np.hypot(body[:, 0] - center[0], body[:, 2] - center[2])
    radius = np.zeros(len(angles))
    for i, (a, h) in enumerate(zip(angles, heights, strict=True)):
        near = (np.abs(body[:, 1] - h) < 0.010) & (np.abs(np.angle(np.exp(1j * (around - a)))) < 0.25)
        radius[i] = np.median(far[near]) if near.any() else 0.055
    radius = np.convolve(np.tile(radius[: len(angles)], 3), np.ones(3) / 3, "same")[len(angles) : 2 * len(angles)]
    radius = radius + stand_off
    return np.stack(
        [center[0] + radius * np.sin(angles), heights + 0 * radius, center[2] + radius * np.cos(angles)], 1
    )  # fmt: skip


def _proxy(name: str, mesh: Mesh, ids: Ints, weights: Floats, offsets: Floats) -> Proxy:
    none = np.zeros(0, np.int64)
    return Proxy(
        name, ids.astype(np.int64), weights, offsets.astype(np.float32), none, mesh.texcoords, mesh.faces, mesh.faces
    )  # fmt: skip
