"""A model before it is loaded: where its checkpoint is, and the sizes of its networks; without torch.

Sizes are those of the official `config.yaml` (section MODEL).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from guava_aug.assets import embedded_path
from guava_aug.errors import AssetError
from guava_aug.runtime.files import is_folder
from guava_aug.runtime.text import in_short

EMBEDDED = "embedded"  # the name of the model that ships with the package
EMBEDDED_DIR = embedded_path()
_MAX_YAML = 2**20  # bytes
# Smallest and largest values of the configuration: a typing error must not allocate all memory.
_SIZES = {
    **dict.fromkeys(("color_dim", "dino_out_dim", "uv_out_dim", "uv_base_dim"), (1, 4096)),
    **dict.fromkeys(("smplx_fea_dim", "prj_out_dim", "global_vertex_dim"), (1, 4096)),
    **dict.fromkeys(("uvmap_size", "feature_img_size", "image_size"), (8, 4096)),
    **dict.fromkeys(("vit.embed_dim", "vit.patch_size"), (1, 4096)),
    **dict.fromkeys(("vit.depth", "vit.num_heads"), (1, 128)),
}
_STYLEUNET_SIZES = {
    **dict.fromkeys(("in_dim", "out_dim", "num_style_feat", "max_channels"), (1, 8192)),
    "num_mlp": (0, 128),
}
_MOST_INVTANFOV = 1e4
_STYLEUNET_SIDES = tuple(8 << i for i in range(8))  # 8 to 1024, for which the original has channel numbers


@dataclass(frozen=True)
class VitConfig:
    """DINOv2's transformer. The official one is ViT-B/14, pre-trained at 37 x 37 patches."""

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    patch_size: int = 14


@dataclass(frozen=True)
class StyleUNetConfig:
    """Sizes of a `StyleUNet`; the defaults are those of the official refiner."""

    in_size: int = 512
    out_size: int = 512
    in_dim: int = 32
    out_dim: int = 3
    num_style_feat: int = 512
    num_mlp: int = 8
    channel_scale: float = 1  # divides every channel count
    max_channels: int = 256  # upper limit of every channel count; the original's largest is 256
    small: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the whole model; the defaults are the official configuration.

    `vit`, `projects` and `uv_decoder` are additions: they are constant in the original.
    """

    color_dim: int = 32
    uvmap_size: int = 512
    feature_img_size: int = 518
    image_size: int = 512
    invtanfov: float = 24
    dino_out_dim: int = 32
    uv_out_dim: int = 96
    uv_base_dim: int = 32
    smplx_fea_dim: int = 128
    prj_out_dim: int = 128
    global_vertex_dim: int = 256
    opacity_threshold: float = 0.001
    visibility: str = "face"  # not in the original: "point" hides texels and vertices one by one (`avatar.visibility`)
    source_pixels: bool = False  # not in the original: pixels of the source frame reach new views (`source_pixels`)
    vit: VitConfig = VitConfig()
    projects: tuple[int, int, int, int] = (256, 512, 1024, 1024)  # widths of the feature pyramid
    uv_decoder: StyleUNetConfig = field(default_factory=lambda: StyleUNetConfig(in_dim=35, out_dim=96, small=False))
    refiner: StyleUNetConfig = StyleUNetConfig()

    @property
    def tanfov(self) -> float:
        """Return the tangent of half the field of view."""
        return 1.0 / self.invtanfov

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as nested dictionaries of plain values."""
        return asdict(self)

    @staticmethod
    def from_dict(d: Any, where: str = "the configuration") -> ModelConfig:
        """Return the configuration of a dictionary made by `to_dict`.

        Raises:
            AssetError: The dictionary is not a configuration; the message begins with `where`.
        """
        if not isinstance(d, Mapping):
            raise AssetError(f"{where} is a {type(d).__name__}, expected the entries of a model's configuration")
        parts = {"vit": VitConfig, "uv_decoder": StyleUNetConfig, "refiner": StyleUNetConfig}
        for name in (*parts, "projects"):
            if name not in d:
                raise AssetError(f"{where} has no entry {name!r}")
        try:
            made = {name: kind(**d[name]) for name, kind in parts.items()}
            config = ModelConfig(**{**d, **made, "projects": tuple(d["projects"])})
        except TypeError as e:
            raise AssetError(f"{where} has an entry this version does not know: {str(e)[:200]}") from e
        return config.checked(where)

    def checked(self, where: str) -> ModelConfig:
        """Return this configuration after checking its values.

        Raises:
            AssetError: A value that no model can have; the message begins with `where`.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for part, kind in (("vit", VitConfig), ("uv_decoder", StyleUNetConfig), ("refiner", StyleUNetConfig)):
            if not isinstance(values[part], kind):
                raise AssetError(f"{where}: {part} is not a section")
            values |= {f"{part}.{f.name}": getattr(values[part], f.name) for f in fields(kind)}
        limits = dict(_SIZES)
        for part in ("uv_decoder", "refiner"):
            limits |= {f"{part}.{name}": limit for name, limit in _STYLEUNET_SIZES.items()}
        for name, (least, most) in limits.items():
            if type(values[name]) is not int or not least <= values[name] <= most:
                raise _wrong(where, name, values[name], f"a whole number from {least} to {most}")
        projects = self.projects
        if len(projects) != 4 or not all(type(n) is int and 1 <= n <= 8192 for n in projects):
            raise _wrong(where, "projects", projects, "four whole numbers from 1 to 8192")
        if not _is_number(self.invtanfov) or not 0 < self.invtanfov <= _MOST_INVTANFOV:
            raise _wrong(where, "invtanfov", self.invtanfov, f"a number above 0, at most {_MOST_INVTANFOV:g}")
        if not _is_number(self.opacity_threshold) or not 0 <= self.opacity_threshold <= 1:
            raise _wrong(where, "opacity_threshold", self.opacity_threshold, "a number from 0 to 1")
        self._check_choices(where)
        if self.vit.embed_dim % self.vit.num_heads:
            raise _wrong(where, "vit.num_heads", self.vit.num_heads, f"a divisor of embed_dim {self.vit.embed_dim}")
        for part, sized_as in (("uv_decoder", "uvmap_size"), ("refiner", "image_size")):
            _check_styleunet(where, part, values, sized_as)
        return self

    def _check_choices(self, where: str) -> None:
        if self.visibility not in ("face", "point"):
            raise _wrong(where, "visibility", self.visibility, "'face' or 'point'")
        if type(self.source_pixels) is not bool:
            raise _wrong(where, "source_pixels", self.source_pixels, "true or false")
        if self.source_pixels and self.visibility != "point":
            raise _wrong(where, "source_pixels", self.source_pixels, "false with visibility 'face'")

    @staticmethod
    def from_yaml(path: Path | str) -> ModelConfig:
        """Return the configuration of an official `config.yaml`.

        Raises:
            AssetError: The file is not one.
        """
        path = Path(path)
        try:
            section = read_yaml(path)["MODEL"]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as e:
            raise AssetError(
                f"cannot read the configuration {path}: {in_short(e, 300)}; expected YAML with a MODEL section"
            ) from e
        if not isinstance(section, dict):
            raise AssetError(f"{path}: MODEL is a {type(section).__name__}, expected a section with entries")
        refiner_type = section.get("refiner_type", "styleunet")
        if refiner_type != "styleunet":
            raise _wrong(str(path), "refiner_type", refiner_type, "'styleunet'; only it is supported")
        known = {f.name for f in fields(ModelConfig)} - {"vit", "projects", "uv_decoder", "refiner"}
        plain = {k: v for k, v in section.items() if k in known}
        default = ModelConfig()
        dino_out, uv_size, uv_out = (
            section.get(k, getattr(default, k)) for k in ("dino_out_dim", "uvmap_size", "uv_out_dim")
        )
        if type(dino_out) is not int:
            raise _wrong(str(path), "dino_out_dim", dino_out, "a whole number")
        uv_decoder = {"in_size": uv_size, "out_size": uv_size, "in_dim": dino_out + 3, "out_dim": uv_out}
        uv_decoder["small"] = False
        vit, own, refiner = (section.get(name, {}) for name in ("vit", "uv_decoder", "styleunet"))
        for name, part in (("vit", vit), ("uv_decoder", own), ("styleunet", refiner)):
            if not isinstance(part, dict) or not all(isinstance(key, str) for key in part):
                raise AssetError(f"{path}: {name} is a {type(part).__name__}, expected a section with entries")
        projects = section.get("projects", ModelConfig.projects)
        if not isinstance(projects, (list, tuple)):
            raise _wrong(str(path), "projects", projects, "a list of four whole numbers")
        try:
            config = ModelConfig(
                **plain,
                vit=VitConfig(**vit),
                projects=tuple(projects),
                uv_decoder=StyleUNetConfig(**{**uv_decoder, **own}),
                refiner=StyleUNetConfig(**refiner),
            )
        except TypeError as e:
            raise AssetError(f"{path}: the MODEL section has an entry this version does not know: {e}") from e
        return config.checked(str(path))


def _check_styleunet(where: str, part: str, values: Mapping[str, Any], sized_as: str) -> None:
    """Check the sides, the scale and the kind of a StyleUNet, whose sides have to be those of `values[sized_as]`."""
    side = values[sized_as]
    for name in ("in_size", "out_size"):
        found = values[f"{part}.{name}"]
        if type(found) is not int or found not in _STYLEUNET_SIDES or found != side:
            raise _wrong(where, f"{part}.{name}", found, f"a power of two from 8 to 1024, as {sized_as} ({side})")
    scale = values[f"{part}.channel_scale"]
    if not _is_number(scale) or not 1 / 64 <= scale <= 64:
        raise _wrong(where, f"{part}.channel_scale", scale, "a number from 1/64 to 64")
    if type(values[f"{part}.small"]) is not bool:
        raise _wrong(where, f"{part}.small", values[f"{part}.small"], "true or false")


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file of plain values.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError: The file is not such YAML.
    """
    with path.open(encoding="utf-8") as file:
        text = file.read(_MAX_YAML + 1)
    if len(text) > _MAX_YAML:
        raise ValueError(f"more than {_MAX_YAML} characters, which no configuration has")
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses containers used twice.

    With merge keys (`<<`) or aliases, a few lines can expand to 2**60 entries.
    """

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Construct as the base class does; refuse a container that is used again."""
        if node in self.constructed_objects and not isinstance(node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "an alias of a list or section", node.start_mark)
        return super().construct_object(node, deep)

    def flatten_mapping(self, node: Any) -> None:
        """Refuse merge keys."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "a merge key (<<)", key.start_mark)
        super().flatten_mapping(node)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _wrong(where: str, name: str, value: Any, expected: str) -> AssetError:
    found = repr(value)[:60] if isinstance(value, (int, float, str)) and len(str(value)[:99]) < 99 else ""
    return AssetError(f"{where}: {name} is {found or f'a {type(value).__name__}'}; expected {expected}")


def model_location(model_path: Path | str | None) -> Path:
    """Return the folder or file of a model; None and "embedded" stand for that of the package."""
    return EMBEDDED_DIR if model_path is None or str(model_path) == EMBEDDED else Path(model_path)


def find_checkpoint(model_dir: Path) -> Path:
    """Return the checkpoint of a model directory.

    That is `*.safetensors`, else the newest `best*.pt`, else the newest `latest*.pt`.
    """
    folders = [d for d in (model_dir, model_dir / "checkpoints") if is_folder(d, AssetError)]
    try:
        files = [d / name for d in folders for name in os.listdir(d)]  # glob would pass over what it may not read
        for pattern in ("*.safetensors", "best*.pt", "latest*.pt"):
            if found := [p for p in files if fnmatchcase(p.name, pattern)]:
                return max(found, key=lambda p: p.stat().st_mtime)
    except OSError as error:
        raise AssetError(f"the model {model_dir} cannot be read: {error.strerror or error}") from error
    raise AssetError(
        f"no checkpoint below {model_dir}: expected checkpoints/best*.pt or latest*.pt (official) or *.safetensors "
        f"(made by `guava-aug convert`)"
    )
