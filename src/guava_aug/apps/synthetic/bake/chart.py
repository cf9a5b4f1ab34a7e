"""The UV chart that ships: MakeHuman's islands rearranged so that face and hands get most of the texels.

Every step is a monotone map per axis of a whole island, so no island can overlap itself. All coordinates here
are image-like: u to the right, v down, in 1/1024 of the chart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from guava_aug.apps.synthetic.arrays import components

Array = NDArray[np.float64]

# name: (u0, v0, u1, v1) box that holds the island in MakeHuman's chart -> (u knots, v knots) of piecewise-linear maps
_HAND_V = ((820, 1014), (700, 1016))
_FOOT_V = ((848, 1018), (948, 1014))
_Map = tuple[tuple[float, ...], tuple[float, ...]]
_MOVES: dict[str, tuple[tuple[int, int, int, int], _Map, _Map]] = {
    # legs are hardly ever in the picture
    "body": ((5, 20, 775, 885), ((0, 1024), (0, 1024)), ((0, 560, 885), (0, 560, 690))),
    # the face sits in the middle of the head island's right half
    "head": ((650, 180, 1022, 876), ((655, 820, 1018), (655, 742, 1018)), ((185, 440, 616, 872), (254, 378, 742, 866))),
    "right_hand": ((368, 815, 570, 1016), ((369, 570), (4, 322)), _HAND_V),
    "left_hand": ((580, 815, 784, 1016), ((582, 783), (328, 646)), _HAND_V),
    "right_foot": ((20, 845, 198, 1018), ((20, 198), (886, 950)), _FOOT_V),
    "left_foot": ((200, 845, 378, 1018), ((200, 378), (956, 1020)), _FOOT_V),
    "mouth": ((770, 880, 950, 1014), ((770, 950), (660, 840)), ((880, 1014), (884, 1018))),
    "tongue": ((630, 10, 670, 78), ((630, 670), (652, 692)), ((10, 78), (10, 96))),
    "eyes": ((774, 38, 838, 76), ((776, 834), (700, 858)), ((42, 73), (14, 110))),
}  # fmt: skip
TEETH_BOXES = ((868.0, 12.0, 1014.0, 64.0), (868.0, 74.0, 1014.0, 126.0))  # upper, lower


def rearrange(texcoords: Array, faces_uv: NDArray[np.int64]) -> Array:
    """Return [Vt, 2] new coordinates, v down, 0..1. texcoords: MakeHuman's, v UP."""
    p = np.stack([texcoords[:, 0], 1 - texcoords[:, 1]], 1) * 1024
    out = p.copy()
    for island in _islands(len(p), faces_uv):
        low, high = p[island].min(0), p[island].max(0)
        for (u0, v0, u1, v1), (ku, mu), (kv, mv) in _MOVES.values():
            if low[0] >= u0 and high[0] <= u1 and low[1] >= v0 and high[1] <= v1:
                out[island, 0] = np.interp(p[island, 0], ku, mu)
                out[island, 1] = np.interp(p[island, 1], kv, mv)
                break
    return out / 1024


def strip_chart(quads: NDArray[np.int64], box: tuple[float, float, float, float]) -> tuple[NDArray[np.int64], Array]:
    """Return the chart of a rectangular grid of quads [n, 4] (a row of teeth): vertex ids (sorted) and [., 2] uv.

    The rim goes evenly round `box` (u0, v0, u1, v1), long sides along u; inside, a vertex lies at its neighbours' mean.
    """
    ids, local = np.unique(quads, return_inverse=True)
    local = local.reshape(quads.shape)
    edges = np.concatenate([local[:, [k, (k + 1) % 4]] for k in range(4)])
    _, first, counts = np.unique(np.sort(edges, 1), axis=0, return_index=True, return_counts=True)
    following = dict(edges[first[counts == 1]].tolist())
    corners = set(np.flatnonzero(np.bincount(local.ravel()) == 1).tolist())
    rim = [min(corners)]
    while len(rim) < len(following):
        rim.append(following[rim[-1]])
    turns = [k for k, v in enumerate(rim) if v in corners] + [len(rim)]
    if turns[1] - turns[0] < turns[2] - turns[1]:  # start with a long side
        rim = rim[turns[1] :] + rim[: turns[1]]
        turns = [k for k, v in enumerate(rim) if v in corners] + [len(rim)]
    u0, v0, u1, v1 = box
    loop = np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1), (u0, v0)])
    place = np.zeros((len(ids), 2))
    place[rim] = np.stack([np.interp(np.arange(len(rim)), turns, loop[:, c]) for c in (0, 1)], 1)
    inside = np.setdiff1d(np.arange(len(ids)), rim)
    near = [np.unique(edges[(edges == i).any(1)]) for i in range(len(ids))]
    place[inside] = (u0 + u1) / 2, (v0 + v1) / 2
    for _ in range(400):
        for i in inside:
            place[i] = place[near[i][near[i] != i]].mean(0)
    return ids, place / 1024


def _islands(count: int, faces_uv: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    label = components(faces_uv, count)
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
