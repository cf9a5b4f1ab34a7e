"""The SMPL-X joint tree by name, and which of Anny's 163 bones belong to which joint."""

from __future__ import annotations

from collections.abc import Sequence

from guava_aug.body.joints import FINGERS, INDEX, JOINTS, SIDES

__all__ = [
    "FINGERS",
    "HEAD_JOINTS",
    "INDEX",
    "JOINTS",
    "PARENTS",
    "SIDES",
    "bone_to_joint",
    "joint_bones",
    "mirror_name",
]

_HAND_PARENTS = tuple(
    wrist if k == 0 else first + 3 * f + k - 1
    for wrist, first in ((20, 25), (21, 40))
    for f in range(5)
    for k in range(3)
)
PARENTS: tuple[int, ...] = (
    -1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15, *_HAND_PARENTS,
)  # fmt: skip
HEAD_JOINTS = ("neck", "head", "jaw", "left_eye", "right_eye")  # body joints that carry the head model's vertices

_ANNY_FINGER = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "pinky": 5}
_CENTRAL = {
    "pelvis": ("spine05", "root", "pelvis.L", "pelvis.R", "spine04"),
    "spine1": ("spine03",),
    "spine2": ("spine02", "breast.L", "breast.R"),
    "spine3": ("spine01",),
    "neck": ("neck01", "neck02", "neck03"),
    "head": ("head",),
    "jaw": ("jaw",),
}
_SIDED = {
    "hip": ("upperleg01", "upperleg02"),
    "knee": ("lowerleg01", "lowerleg02"),
    "ankle": ("foot",),
    "collar": ("clavicle", "shoulder01"),
    "shoulder": ("upperarm01", "upperarm02"),
    "elbow": ("lowerarm01", "lowerarm02"),
    "wrist": ("wrist", "metacarpal1", "metacarpal2", "metacarpal3", "metacarpal4"),
    "eye": ("eye",),
}


def mirror_name(name: str) -> str:
    """Return the joint on the other side; a central joint gives itself."""
    for a, b in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(a):
            return b + name[len(a) :]
    return name


def joint_bones() -> dict[str, tuple[str, ...]]:
    """Return Anny's bones of each joint. The head of the first is the joint's centre (feet and eyes apart)."""
    bones = dict(_CENTRAL)
    for side, letter in (("left", "L"), ("right", "R")):
        for joint, names in _SIDED.items():
            bones[f"{side}_{joint}"] = tuple(f"{n}.{letter}" for n in names)
        toes = [f"toe1-{k}.{letter}" for k in (1, 2)] + [f"toe{t}-{k}.{letter}" for t in range(2, 6) for k in (1, 2, 3)]
        bones[f"{side}_foot"] = ("toe2-1." + letter, *(t for t in toes if t != "toe2-1." + letter))
        for finger, n in _ANNY_FINGER.items():
            for k in (1, 2, 3):
                bones[f"{side}_{finger}{k}"] = (f"finger{n}-{k}.{letter}",)
    return bones


def bone_to_joint(labels: Sequence[str], bone_parents: Sequence[int]) -> list[int]:
    """Return the joint of every Anny bone; facial bones below the jaw go to the jaw, others to the head."""
    known = {b: INDEX[j] for j, bs in joint_bones().items() for b in bs}

    def below_jaw(b: int) -> bool:
        while b >= 0:
            if labels[b] == "jaw":
                return True
            b = bone_parents[b]
        return False

    return [known.get(n, INDEX["jaw"] if below_jaw(i) else INDEX["head"]) for i, n in enumerate(labels)]
