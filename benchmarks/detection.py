"""Our landmarks against those of mediapipe 0.10.21, and how long they take.

    python benchmarks/detection.py record OUT.npz [CLIP ...]   # where mediapipe 0.10.21 and av are installed
    python benchmarks/detection.py compare RECORDED.npz        # the parity table, with this package

A CLIP is a video, a picture, or the name of an embedded clip; without any, the three embedded clips are recorded.
`tests/golden/landmarks.npz` was made by `record tests/golden/landmarks.npz signer_a signer_b signer_c --single 3
--tracked 10`. Each clip is recorded twice with MediaPipe's Holistic (model complexity 1, no smoothing): `--single`
frames, each by itself, and the first `--tracked` frames as a video.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

POSE_GROWTH, HAND_GROWTH, FACE_GROWTH = 1.0, 2.0, 1.5  # from the box of the landmarks to the net's region
NET_SIDE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("clips", nargs="*", default=["signer_a", "signer_b", "signer_c"])
    recording.add_argument("--single", type=int, default=12)
    recording.add_argument("--tracked", type=int, default=120)
    comparing = commands.add_parser("compare")
    comparing.add_argument("recorded", type=Path)
    comparing.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.command == "record":
        record(args.out, args.clips, args.single, args.tracked)
    else:
        compare(args.recorded, args.device)


def read(clip: str) -> Iterator[np.ndarray]:
    """Yield the frames [H, W, 3] uint8 RGB of a video, a picture or an embedded clip."""
    import cv2

    if "." not in clip:
        from guava_aug.assets import embedded_path
        from guava_aug.tracked.mdb import MdbFile

        file = MdbFile(embedded_path("clips", clip, "img_lmdb", "data.mdb"))
        for key, slot in sorted(dict(file.scan(b"")).items()):
            if key.endswith(b"/body_image"):
                yield cv2.cvtColor(cv2.imdecode(np.frombuffer(file.read(slot), np.uint8), 1), cv2.COLOR_BGR2RGB)
    elif (picture := cv2.imread(clip)) is not None:
        yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    else:
        import av

        with av.open(clip) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")


def record(out: Path, clips: list[str], single: int, tracked: int) -> None:
    """Write MediaPipe's landmarks: `CLIP|single|pose` and so on, and the frame numbers `CLIP|single|frames`."""
    from mediapipe.python.solutions.holistic import Holistic  # type: ignore[import-not-found]

    arrays: dict[str, np.ndarray] = {}
    for clip in clips:
        frames = list(read(clip))
        alone = np.unique(np.linspace(0, len(frames) - 1, single).astype(int))
        for way, numbers in (("single", alone), ("tracked", np.arange(min(tracked, len(frames))))):
            height, width = frames[0].shape[:2]
            # A frame by itself takes a graph of its own: in one graph hands and face look where they were, in any mode.
            runs = [[i] for i in numbers] if way == "single" else [list(numbers)]
            results = []
            for run in runs:
                with Holistic(model_complexity=1, smooth_landmarks=False) as holistic:
                    results += [holistic.process(frames[i]) for i in run]
            pixels = (width, height, width)
            parts = {
                "frames": numbers,
                "pose": _array(results, "pose_landmarks", 33, pixels),
                "pose_score": _array(results, "pose_landmarks", 33, None),
                "pose_world": _array(results, "pose_world_landmarks", 33, (1, 1, 1)),
                "left_hand": _array(results, "left_hand_landmarks", 21, pixels),
                "right_hand": _array(results, "right_hand_landmarks", 21, pixels),
                "face": _array(results, "face_landmarks", 468, pixels),
            }
            arrays |= {f"{clip}|{way}|{part}": values for part, values in parts.items()}
    np.savez_compressed(out, **arrays)


def _array(results: list, name: str, count: int, scale: tuple[float, float, float] | None) -> np.ndarray:
    """Return [T, count, 3] float32, or [T, count] visibilities; not a number where nothing was found."""
    rows = []
    for result in results:
        found = getattr(result, name)
        if found is None:
            rows.append(np.full((count, 3) if scale else (count,), np.nan))
        elif scale is None:
            rows.append(np.array([p.visibility for p in found.landmark]))
        else:
            rows.append(np.array([[p.x, p.y, p.z] for p in found.landmark]) * scale)
    return np.array(rows, np.float32)


def compare(recorded: Path, device: str) -> None:
    """Print one row per clip and way: median and 95th percentile in pixels of a net's region of 256."""
    from guava_aug.tracked.detect import Landmarks, detect

    data = np.load(recorded)
    print("| clip | frames | pose | left hand | right hand | face | hands found: theirs, ours | ms a frame |")
    print("|---|---|---|---|---|---|---|---|")
    for clip, way in dict.fromkeys(tuple(key.split("|")[:2]) for key in data.files):
        theirs = {key.split("|")[2]: data[key] for key in data.files if key.startswith(f"{clip}|{way}|")}
        frames = list(read(clip))
        start = time.process_time()
        if way == "single":
            parts = [detect([frames[i]], device=device) for i in theirs["frames"]]
            ours = {key: np.concatenate([getattr(p, key) for p in parts]) for key in Landmarks.__dataclass_fields__
                    if key not in ("size", "person_mask")}  # fmt: skip
        else:
            found = detect([frames[i] for i in theirs["frames"]], device=device)
            ours = {key: getattr(found, key) for key in Landmarks.__dataclass_fields__}
        spent = (time.process_time() - start) / len(theirs["frames"]) * 1000
        rows = differences(ours, theirs)
        seen = [np.isfinite(theirs[f"{side}_hand"][:, 0, 0]).sum() for side in ("left", "right")]
        mine = (ours["hand_score"] > 0).sum(0)
        cells = [f"{np.median(e):.2f}, {np.percentile(e, 95):.2f}" if len(e) else "-" for e in rows.values()]
        name = f"{Path(clip).stem}, {way}"
        print(f"| {name} | {len(theirs['frames'])} | {' | '.join(cells)} |", end="")
        print(f" {seen[0]}+{seen[1]}, {mine[0]}+{mine[1]} | {spent:.0f} |")


def differences(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the distances of the landmarks that both found, in pixels of a net's region of 256, by part."""
    region = ours["mask_region"][:, 2] * POSE_GROWTH
    found = {
        "pose": (ours["pose"], ours["pose_score"].any(1), theirs["pose"], region),
        "left_hand": (ours["hands"][:, 0], ours["hand_score"][:, 0] > 0, theirs["left_hand"], None),
        "right_hand": (ours["hands"][:, 1], ours["hand_score"][:, 1] > 0, theirs["right_hand"], None),
        "face": (ours["face"], ours["face_score"] > 0, theirs["face"], None),
    }
    out = {}
    for part, (mine, seen, their, side) in found.items():
        both = seen & np.isfinite(their[:, 0, 0])
        growth = FACE_GROWTH if part == "face" else HAND_GROWTH
        sides = side[both] if side is not None else np.ptp(their[both, :, :2], axis=1).max(1) * growth
        error = np.linalg.norm(mine[both, :, :2] - their[both, :, :2], axis=-1)
        out[part] = (error / sides[:, None] * NET_SIDE).ravel()
    return out


if __name__ == "__main__":
    main()
