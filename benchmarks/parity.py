"""How far every stage is from the numbers recorded from the original: `python benchmarks/parity.py --golden DIR`.

Prints a Markdown table: golden file, quantity, the tolerance the golden README gives, the largest error found, and
the test that holds it. Exit code 1 when a row is out of its tolerance. About a minute on two cores.

DIR holds weights.py, make_body_assets.py and the .npz files. `--assets` is a body-model tree made by
make_body_assets.py; left out, one is made in a temporary directory from `--guava_assets` (the public files).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guava_aug.avatar import ModelConfig, ReconstructionNetwork, StyleUNet
from guava_aug.avatar.checkpoint import REFINER_PREFIX, bare_modules, classify_key
from guava_aug.avatar.model import GuavaModel
from guava_aug.body import EhmModel, Identity, Motion, load_official_assets
from guava_aug.render.inpaint import onion_peel_fill, original_hole
from guava_aug.render.rasterize import Raster, rasterize
from guava_aug.tracked import Source, TrackedVideo
from guava_aug.views import tracked_cameras
from guava_aug.views.cameras import (
    camera_center,
    circle_cameras,
    fixed_camera,
    full_proj_transform,
    intrinsics,
    look_at,
    world_view_transform,
    zoom_cameras,
)
from guava_aug.views.difficulty import draw, seed_for

TESTS = Path(__file__).resolve().parent.parent / "tests"


@dataclass
class Table:
    """The rows; `file` and `test` hold for all rows until they are set again."""

    file: str = ""
    test: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)

    def close(self, what: str, pairs: Any, tolerance: float, share: float = 0.0) -> None:
        """Largest absolute error over pairs (found, recorded); a `share` of the values may be beyond the tolerance."""
        errors = [np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).ravel() for a, b in pairs]
        error = np.concatenate(errors)
        beyond = float((error > tolerance).mean())
        self._add(
            what,
            f"{tolerance:g}" + (f" for {100 * (1 - share):g} %" if share else ""),
            f"{error.max():.1e}" + (f" ({100 * beyond:.3f} % beyond)" if beyond else ""),
            beyond <= share,
        )

    def equal(self, what: str, pairs: Any, allowed: int = 0) -> None:
        """How many values differ over pairs (found, recorded)."""
        different = total = 0
        for a, b in pairs:
            same = np.asarray(a) == np.asarray(b)
            different, total = different + int((~same).sum()), total + same.size
        self._add(
            what,
            f"at most {allowed} differ" if allowed else "exact",
            f"{different} of {total} differ",
            different <= allowed,
        )

    def _add(self, what: str, tolerance: str, error: str, ok: bool) -> None:
        self.rows.append(
            {"file": self.file, "what": what, "tolerance": tolerance, "error": error, "ok": ok, "test": self.test}
        )

    def markdown(self) -> str:
        """The table, errors out of tolerance in bold."""
        lines = ["| golden file | quantity | tolerance | measured | test |", "|---|---|---|---|---|"]
        for r in self.rows:
            error = r["error"] if r["ok"] else f"**{r['error']}**"
            lines.append(f"| `{r['file']}` | {r['what']} | {r['tolerance']} | {error} | `{r['test']}` |")
        return "\n".join(lines)


def tensor(a: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(a, np.float32))


def records(smplx: dict, flame: dict) -> tuple[Identity, Motion]:
    """Identity and motion (one frame) of the golden data's coefficient dictionaries."""
    identity = Identity(
        *(
            tensor(a[0])
            for a in (
                smplx["shape"],
                flame["shape_params"],
                smplx["head_scale"],
                smplx["hand_scale"],
                smplx["joints_offset"],
            )
        )
    )
    plain = ("global_pose", "body_pose", "left_hand_pose", "right_hand_pose", "exp")
    face = [tensor(flame[k]) for k in ("expression_params", "jaw_params", "eye_pose_params", "eyelid_params")]
    face[2] = face[2].unflatten(-1, (2, 3))
    motion = Motion(*[tensor(smplx[k]) for k in plain], *face)
    return identity, motion


def bits(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(packed)[: int(np.prod(shape))].reshape(shape).astype(bool)


def keys(table: Table, golden: Path) -> None:
    """Names and shapes of the official state dictionaries."""
    table.test = "tests/avatar/test_checkpoint.py"
    with bare_modules():
        network = ReconstructionNetwork(ModelConfig(), 10595)
        refiner = StyleUNet(ModelConfig().refiner)
    for name, prefix, module in (("model", "", network), ("render_model", REFINER_PREFIX, refiner)):
        table.file = f"state_dict_{name}.tsv"
        rows = [line.split("\t") for line in (golden / table.file).read_text(encoding="utf-8").splitlines()[1:]]
        kept = [r for r in rows if r[5] == "persistent"]
        wanted = {r[0]: r[1] for r in kept if name != "model" or classify_key(r[0]) == "network"}
        ours = {prefix + k: "x".join(map(str, v.shape)) for k, v in module.state_dict().items()}
        table.equal(
            f"names and shapes of weights ({len(kept)} keys in the file)",
            [([ours.get(k) for k in wanted | ours], [wanted.get(k) for k in wanted | ours])],
        )


def parameters(table: Table, golden: Path) -> None:
    table.file, table.test = "params.json", "tests/views/test_view.py"
    rows = json.loads((golden / "params.json").read_text(encoding="utf-8"))["rows"]
    seeds = [seed_for(r["video_name"], r["difficulties"], r["diff_idx"], r["base_seed"]) for r in rows]
    table.equal("seeds", [(seeds, [r["seed"] for r in rows])])
    table.equal(
        "yaw, pitch, zoom",
        [(draw(r["difficulty"], s), (r["yaw"], r["pitch"], r["zoom"])) for r, s in zip(rows, seeds, strict=True)],
    )


def cameras(table: Table, golden: Path) -> None:
    """Errors relative to the largest entry of each matrix, as the tolerance is."""
    d = np.load(golden / "cameras.npz")
    table.file, table.test = "cameras.npz", "tests/views/test_cameras.py"
    pairs: dict[str, list] = {"tracked": [], "fixed": [], "circle": [], "zoom": []}
    scaled = lambda a, b: (np.asarray(a) / np.abs(b).max(), b / np.abs(b).max())
    for i in range(3):
        w2c = tensor(d[f"tracked_w2c_{i}"])
        pairs["tracked"].append(scaled(full_proj_transform(w2c), d[f"tracked_full_proj_{i}"]))
        made = {
            "fixed": torch.cat([fixed_camera(w2c, *row).viewmats for row in d["fixed_params"]]),
            "circle": circle_cameras(w2c).viewmats,
            "zoom": zoom_cameras(w2c).viewmats,
        }
        for name, viewmats in made.items():
            for key, found in (
                ("world_view_transform", world_view_transform),
                ("full_proj_transform", full_proj_transform),
                ("camera_center", camera_center),
            ):
                pairs[name].append(scaled(found(viewmats), d[f"{name}_{key}_{i}"]))
    for name, both in pairs.items():
        table.close(f"{name} cameras (relative)", both, 2e-5)
    rows = torch.from_numpy(d["lookat_params"])
    looking = look_at(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3:])
    table.close(
        "look-at (relative)", [scaled(a, b) for a, b in zip(looking[:3], d["lookat_w2c"][:3], strict=True)], 2e-5
    )
    table.close("look-at at a pole (relative)", [scaled(looking[3], d["lookat_w2c"][3])], 1e-4)


def body_model(table: Table, golden: Path, body: EhmModel, weights: Any) -> None:
    d = np.load(golden / "ehm.npz")
    table.file, table.test = "ehm.npz", "tests/body/test_ehm_parity.py"
    pairs: dict[str, list] = {"vertices (m)": [], "joints (m)": [], "matrices": []}
    for k in range(len(d["seeds"])):
        identity, motion = records(*weights.make_coeffs(3001 + k)[:2])
        scale = lambda name, k=k: tensor(d[f"in_{name}_{k}"][0])
        out = body(replace(identity, head_scale=scale("head_scale"), hand_scale=scale("hand_scale")), motion)
        pairs["vertices (m)"] += [
            (out.vertices[0, d["vertex_index"]], d[f"vertices_{k}"]),
            (out.vertices[0, -120:], d[f"teeth_{k}"]),
        ]
        pairs["joints (m)"] += [(out.joints_rest[0], d[f"joints_{k}"]), (out.joints[0], d[f"joints_transform_{k}"])]
        pairs["matrices"] += [
            (out.vertex_transforms[0, d["vertex_index"]], d[f"ver_transform_mat_{k}"]),
            (out.joint_transforms[0], d[f"joint_transform_mat_{k}"]),
        ]
    for name, both in pairs.items():
        table.close(name, both, 2e-5)
    a = body.assets
    table.close("canonical template (m)", [(a.v_canonical[d["vertex_index"]], d["v_template_vertices"])], 2e-5)
    table.equal(
        "teeth: faces, chart, order",
        [
            (a.faces[-168:], d["faces_teeth"]),
            (a.faces_uv[-168:], d["faces_uv_teeth"]),
            (a.head_to_body[-120:], d["smplx2flame_tail"]),
        ],
    )

    d = np.load(golden / "uvmap.npz")
    table.file = "uvmap.npz"
    table.equal("face of every texel", [(a.uv_face, d["uvmap_f_idx"])])
    table.close("barycentrics", [(a.uv_bary.reshape(-1, 3)[d["bary_index"]], d["bary"])], 1e-6)


def inference(table: Table, golden: Path, model: GuavaModel, weights: Any) -> Any:
    """Rows of infer.npz; gives back the avatar for the stages after it."""
    d = np.load(golden / "infer.npz")
    table.file, table.test = "infer.npz", "tests/avatar/test_infer_parity.py"
    smplx, flame, rt = weights.make_coeffs(1001)
    source = Source(tensor(weights.source_image(101))[0], *records(smplx, flame), tensor(weights.w2c_from_rt(rt)))
    free = model.infer(source)
    raw = model.infer(source, pixel_faces=torch.from_numpy(d["pix_to_face"]))
    f, pix = raw.features, d["pix_index"]
    at = lambda maps, index: maps.flatten(1).T[index]
    table.close("DINOv2 tokens", [(f.tokens[i][0, d["token_index"]], d[f"dino_tokens_{i}"]) for i in range(5)], 1e-4)
    table.close("global feature", [(f.global_feature[0], d["f_global"])], 1e-4)
    table.close("feature maps", [(at(f.uv_map[0], pix), d["f_map1"]), (at(f.vertex_map[0], pix), d["f_map2"])], 5e-4)
    index, points = d["vertex_index"], d["uv_point_index"]
    table.close("projected vertices", [(raw.prj_xy[index], d["prj_xy"])], 1e-4)
    table.close("features at vertices", [(raw.vertex_features[index], d["prj_feature"])], 5e-4)
    table.equal("face seen by each source pixel", [(free.pixel_faces, d["pix_to_face"])], allowed=20)
    table.equal(
        "texels that are seen, given the faces", [(raw.uv_visible, bits(d["visible_uv_mask_packed"], (512, 512)))]
    )
    table.close("UV decoder, input", [(at(raw.uv_input, d["uv_visible_index"]), d["uv_input"])], 5e-4)
    table.close("UV decoder, output", [(at(raw.uv_features, d["uv_index"]), d["uv_feature"])], 5e-4)
    for what, tolerance in (("colors", 3e-4), ("opacities", 3e-4), ("scales", 1e-4), ("rotations", 1e-4)):
        table.close(
            what,
            [
                (getattr(raw.vertex, what)[index], d[f"vertex_{what}"]),
                (getattr(raw.uv, what)[points], d[f"uvp_{what}"]),
            ],
            tolerance,
        )
    assert raw.uv.local_pos is not None
    table.close("local positions", [(raw.uv.local_pos[points], d["uvp_local_pos"])], 3e-4)
    return model.avatar(raw, source.identity)


def deformation(table: Table, golden: Path, avatar: Any, weights: Any) -> None:
    d = np.load(golden / "deform.npz")
    table.file = "deform.npz"
    kept, point = avatar.kept.numpy(), d["gaussian_uv_point"]
    table.equal(
        "UV points kept", [(kept, bits(d["keep_packed"], kept.shape))], int(d["opacity_within_1e-5_of_threshold"])
    )
    rows = np.where(point < 0, d["gaussian_index"], (np.cumsum(kept) - 1 + 10595)[np.maximum(point, 0)])
    ok = (point < 0) | kept[np.maximum(point, 0)]
    posed = avatar.pose(Motion.cat([records(*weights.make_coeffs(2001 + k)[:2])[1] for k in range(3)]))
    take = lambda a, name: [(a[k, rows[ok]], d[f"{name}_{k}"][ok]) for k in range(3)]
    table.close("positions (m)", take(posed.means, "xyz"), 1e-5)
    table.close("scales (m)", take(posed.scales, "scaling"), 1e-6)
    table.close("rotations, signs too", take(posed.quats, "rotation"), 5e-5, share=2e-3)
    table.close(
        "opacity and colour",
        [(posed.opacities[rows[ok], None], d["opacity_0"][ok]), (posed.features[rows[ok]], d["features_color_0"][ok])],
        1e-4,
    )


def rasteriser(table: Table, golden: Path, backend: Any) -> None:
    table.test = "tests/render/test_rasterize_golden.py"
    for name in ("raster_a", "raster_b"):
        d = np.load(golden / f"{name}.npz")
        table.file = f"{name}.npz"
        width, height = int(d["W"]), int(d["H"])
        r = rasterize(
            tensor(d["xyz"])[None],
            tensor(d["quat"])[None],
            tensor(d["scale"])[None],
            tensor(d["opacity"])[:, 0],
            tensor(d["feature"]),
            tensor(d["view"]).T[None],
            intrinsics(width, height, float(d["tanfovx"])),
            width,
            height,
            background=tensor(d["bg"]),
            backend=backend,
        )
        end, at = ("_at", d["pixel_index"]) if name == "raster_b" else ("", np.arange(width * height))
        table.equal(f"radii ({backend})", [(r.radii[0], d["radii"])])
        for what, found in (("image", r.image[0]), ("alpha", r.alpha[0]), ("invdepth", r.inverse_depth[0])):
            table.close(
                f"{what} ({backend})", [(found.flatten(1)[:, at], d[what + end].reshape(len(found), -1))], 1e-4, 1e-3
            )
    d = np.load(golden / "raster.npz")
    table.file = "raster.npz"
    height, width = (int(n) for n in d["small_in_size_hw"])
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "aa": {"antialias": True},
        "mod": {"scale_modifier": 0.6},
        "bg": {"background": tensor(d["small_bg"])},
    }
    for variant, option in options.items():
        r = rasterize(
            tensor(d["small_in_xyz"])[None],
            tensor(d["small_in_rotation"])[None],
            tensor(d["small_in_scaling"])[None],
            tensor(d["small_in_opacity"])[:, 0],
            tensor(d["small_in_features"]),
            tensor(d["small_in_w2c"])[None],
            intrinsics(width, height, float(d["small_in_tanfov"])),
            width,
            height,
            backend=backend,
            **option,
        )
        scale = max(1.0, float(np.abs(d["small_in_features"]).max()))
        table.close(
            f"small scene, {variant}, of the largest feature ({backend})",
            [(r.image[0] / scale, d[f"small_{variant}_image"] / scale)],
            2e-5,
            1e-3,
        )


def rasterised_avatar(table: Table, golden: Path, model: GuavaModel, avatar: Any, weights: Any) -> None:
    d = np.load(golden / "raster.npz")
    table.file, table.test = "raster.npz", "tests/avatar/test_infer_parity.py"
    posed = avatar.pose(records(*weights.make_coeffs(2001)[:2])[1])
    for camera in ("tracked", "novel"):
        r: Raster = model.rasterize(posed, tracked_cameras(tensor(d[f"avatar_{camera}_w2c"])))
        table.close(
            f"avatar, {camera} camera: image",
            [(r.image[0, :, ::8, ::8], d[f"avatar_{camera}_image_stride8"])],
            2e-3,
            1e-3,
        )
        table.close(
            f"avatar, {camera} camera: means",
            [
                (r.image[0].mean((1, 2)), d[f"avatar_{camera}_image_mean"]),
                (r.alpha.mean(), d[f"avatar_{camera}_alpha_mean"]),
            ],
            1e-4,
        )


def refining(table: Table, golden: Path, model: GuavaModel, weights: Any) -> None:
    d = np.load(golden / "refiner.npz")
    table.file, table.test = "refiner.npz", "tests/avatar/test_refiner_parity.py"
    image = tensor(weights.refiner_input(303))
    maps = [tensor(weights.noise_image(i, s)) for i, s in enumerate(model.refiner.noise_sizes)]
    for case, noise in (("noise", maps), ("nonoise", [torch.zeros_like(m) for m in maps])):
        out = model.refine(image, noise)[0]
        table.close(
            f"output, {case}",
            [(out[:, ::4, ::4], d[f"out_{case}_stride4"]), (out[:, 224:288, 224:288], d[f"out_{case}_crop"])],
            2e-4,
        )


def fill(table: Table, golden: Path, weights: Any) -> None:
    d = np.load(golden / "inpaint.npz")
    table.file, table.test = "inpaint.npz", "tests/render/test_inpaint.py"
    w = weights
    cases = [
        (w.procedural_rgb(512, 512, 404, 8), w.person_mask(512, 512, 404)),
        (w.procedural_rgb(512, 512, 405, 8), w.disk_mask(512, 512, 0.4, 0.6, 0.06)),
        (w.procedural_rgb(96, 96, 406, 4), w.person_mask(96, 96, 405)),
        (w.procedural_rgb(96, 96, 407, 4), np.zeros((96, 96), np.float32)),
    ]
    pairs, changed, holes = [], [], []
    for i, (rgb, mask) in enumerate(cases):
        out = onion_peel_fill(tensor(rgb), tensor(mask)[None]).numpy()
        changed.append((np.packbits((out != rgb).any(0)), d[f"changed_packed_{i}"]))
        holes.append((original_hole(mask).sum(), d[f"hole_count_{i}"]))
        full = f"out_full_{i}" in d
        pairs += (
            [(out, d[f"out_full_{i}"])]
            if full
            else [(out[:, ::8], d[f"out_rows_{i}"]), (out[:, :, ::8], d[f"out_cols_{i}"])]
        )
    table.equal("size of the hole", holes)
    table.equal("which pixels change (packed bytes)", changed)
    table.close("onion peel", pairs, 1e-5)


def tracked(table: Table, golden: Path) -> None:
    d = np.load(golden / "tracked_example.npz")
    table.file, table.test = "tracked_example.npz", "tests/tracked/test_tracked_golden.py"
    video = TrackedVideo.open(golden / "tracked_example", "synthetic_clip")
    source, chunk = video.source, next(video.chunks(12))
    images = [(source.image[:, ::14, ::14], d["source__image_stride14"])]
    numbers, boxes = (
        [(source.viewmat, d["source__w2c_cam"][0]), (source.identity.betas[:200], d["source__smplx_coeffs__shape"][0])],
        [],
    )
    for i in (0, 5, 11):
        key = f"target{i}__"
        images += [
            (chunk.images[i, :, ::8, ::8], d[key + "image_stride8"]),
            (chunk.masks[i].expand(3, -1, -1)[:, ::8, ::8], d[key + "mask_stride8"]),
        ]
        for name, group in (
            ("global_orient", "smplx_coeffs__global_pose"),
            ("body_pose", "smplx_coeffs__body_pose"),
            ("left_hand_pose", "smplx_coeffs__left_hand_pose"),
            ("expression", "smplx_coeffs__exp"),
            ("jaw_pose", "flame_coeffs__jaw_params"),
            ("eyelids", "flame_coeffs__eyelid_params"),
        ):
            numbers.append((getattr(video.motion, name)[i], d[key + group][0]))
        numbers.append((video.viewmats[i], d[key + "w2c_cam"][0]))
        boxes += [(box, d[f"{key}{part}_box"][0]) for part, box in video.part_boxes(i).items()]
    table.close("images and masks", images, 4e-3)
    table.close("parameters and cameras", numbers, 1e-6)
    table.equal("part boxes", boxes)


def build_model(assets: Path, weights: Any) -> GuavaModel:
    """The full official configuration, filled by the golden rule."""
    config = ModelConfig.from_yaml(assets / "GUAVA/config.yaml")
    body = EhmModel(load_official_assets(assets))
    with bare_modules():
        network = ReconstructionNetwork(config, len(body.assets.body.v_template))
        refiner = StyleUNet(config.refiner)
    for module, prefix in ((network, ""), (refiner, REFINER_PREFIX)):
        filled = {k: tensor(weights.fill_array(prefix + k, v.shape)) for k, v in module.state_dict().items()}
        module.load_state_dict(filled, strict=True, assign=True)
    return GuavaModel(config, network, refiner, body)


def make_assets(golden: Path, public: Path, out: Path) -> Path:
    """The synthetic asset tree, with the vertices that fall by the last bit of a float64 as they were recorded."""
    sys.path.append(str(TESTS))
    from conftest import _settle_ties

    subprocess.run(
        [
            sys.executable,
            "-B",
            str(golden / "make_body_assets.py"),
            "--assets",
            str(public),
            "--out",
            str(out),
            "--copy-assets",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    _settle_ties(out / "FLAME/FLAME2020/generic_model.pkl")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--guava_assets", type=Path, help="default: guava_assets beside --golden")
    args = parser.parse_args()
    golden = args.golden.resolve()
    sys.path.insert(0, str(golden))
    sys.dont_write_bytecode = True
    import weights

    table = Table()
    with tempfile.TemporaryDirectory() as scratch:
        public = args.guava_assets or golden.parent / "guava_assets"
        model = build_model(args.assets or make_assets(golden, public, Path(scratch) / "assets"), weights)
    keys(table, golden)
    parameters(table, golden)
    cameras(table, golden)
    body_model(table, golden, model.body, weights)
    avatar = inference(table, golden, model, weights)
    deformation(table, golden, avatar, weights)
    for backend in ("torch", "numba"):
        rasteriser(table, golden, backend)
    rasterised_avatar(table, golden, model, avatar, weights)
    refining(table, golden, model, weights)
    fill(table, golden, weights)
    tracked(table, golden)
    print(table.markdown())
    return 0 if all(row["ok"] for row in table.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
