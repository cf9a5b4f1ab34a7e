"""The model: load once, reconstruct once per video, render any number of views."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guava_aug.avatar.avatar import Avatar, PosedGaussians
from guava_aug.avatar.checkpoint import Checkpoint, bare_modules, load_weights, read_checkpoint, write_safetensors
from guava_aug.avatar.config import EMBEDDED as EMBEDDED
from guava_aug.avatar.config import EMBEDDED_DIR as EMBEDDED_DIR
from guava_aug.avatar.config import ModelConfig, find_checkpoint, model_location
from guava_aug.avatar.network import Reconstruction, ReconstructionNetwork
from guava_aug.avatar.source_pixels import SourcePixels
from guava_aug.avatar.styleunet import StyleUNet
from guava_aug.avatar.visibility import compile_kernel
from guava_aug.body import EhmAssets, EhmModel, Identity, load_body_file, load_official_assets
from guava_aug.errors import AssetError, DeviceError, UsageError
from guava_aug.render.backends import PRECISIONS, Backend, Precision
from guava_aug.render.background import composite
from guava_aug.render.rasterize import Raster, check_backend, rasterize, resolve_backend
from guava_aug.runtime.device import device_errors, triton_usable, warm_up
from guava_aug.runtime.files import is_file, is_folder, is_there
from guava_aug.runtime.text import one_line
from guava_aug.tracked import Source
from guava_aug.views.cameras import Cameras, Lens

if TYPE_CHECKING:
    from guava_aug.avatar.refiner_triton import HalfRefiner

log = logging.getLogger(__name__)

BODY_FILE = "body.npz"  # a model directory may contain its own body model
REFINER_NOISE_SEED = 10  # the original seeds its run with 10, then draws anew for every frame
_BLENDED = 8  # frames at a time: float32 pictures of many frames would need gigabytes


@dataclass(frozen=True)
class Rendered:
    """T frames before compositing."""

    rgb: Tensor  # [T, 3, H, W] 0..1, refined
    alpha: Tensor  # [T, 1, H, W] 0..1
    raster: Raster


class GuavaModel:
    """Networks and body model on one device. Inference only; holds no state of any video."""

    def __init__(
        self,
        config: ModelConfig,
        network: ReconstructionNetwork,
        refiner: StyleUNet,
        body: EhmModel,
        *,
        backend: Backend = "auto",
        precision: Precision = "auto",
        source: str = "",
    ):
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self.refiner = refiner.eval().requires_grad_(False)
        for module in refiner.modules():  # a quarter faster on a CPU; the modulated weights have five dimensions
            if isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.body = body
        self.backend = backend  # of the rasteriser
        self.most_frames: int | None = None  # rendered at a time, once the GPU's memory has been found too small
        self.source = source  # where the weights came from, for the run's record
        self.device = body.assets.faces.device
        self.refiner_noise = refiner_noise(refiner, REFINER_NOISE_SEED, self.device)
        wants_half = choose_precision(precision, self.device, backend) == "fp16"
        self._half = self._half_refiner(precision) if wants_half else None
        if self.fast:
            log.info("rendering in half precision; kernels are compiled on their first use here, about 40 s")

    @property
    def fast(self) -> bool:
        """Return whether `render` uses half precision; only then `render_planes` can be used."""
        return self._half is not None

    @property
    def precision(self) -> str:
        """Return the precision of rendering: "fp16" or "fp32"."""
        return "fp16" if self.fast else "fp32"

    @property
    def keeps_memory(self) -> bool:
        """Return whether GPU memory is held only for speed."""
        return self._half is not None and self._half.keeps_memory

    def save_memory(self, tried: int) -> None:
        """Reduce memory use after `tried` frames at a time did not fit.

        Release caches if there are any, else halve the number of frames.
        """
        if self._half is not None and self._half.keeps_memory:
            self._half.release()
        else:
            self.most_frames = tried // 2
        torch.cuda.empty_cache()

    @torch.no_grad()
    def _half_refiner(self, asked: Precision) -> HalfRefiner | None:
        """Return the half-precision refiner; None, with a warning in the log, if it is not available.

        Raises:
            DeviceError: It is not available and "fp16" was requested.
        """
        from guava_aug.avatar.refiner_triton import HalfRefiner  # noqa: PLC0415 - needs Triton

        config, why = self.config.refiner, "its refiner is not of the official structure"
        if config.small and config.out_dim == 3:
            half = HalfRefiner(self.refiner, self.refiner_noise)
            if torch.cuda.get_device_capability(self.device) >= (8, 0):
                return half
            try:  # older GPUs have less shared memory: only compiling the kernels shows whether it is enough
                half(torch.zeros(1, half.size, half.size, half.width, device=self.device).half().permute(0, 3, 1, 2))
                return half
            except Exception as error:  # whatever Triton and its compilers raise
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if asked == "fp16":
            raise DeviceError(
                f"--precision fp16: this model cannot be rendered in half precision here ({why}); use auto"
            )
        log.warning("rendering in float32: this model cannot be rendered in half precision here (%s)", why)
        return None

    @torch.no_grad()
    def reconstruct(self, source: Source, *, uv_noise: Sequence[Tensor] | None = None) -> Avatar:
        """Return the avatar of the person in one source frame.

        `uv_noise` replaces the checkpoint's noise maps of the UV decoder, one [1, 1, s, s] per
        `model.network.uv_feature_decoder.noise_sizes`.
        """
        return self.avatar(self.infer(source, uv_noise=uv_noise), source.identity)

    @torch.no_grad()
    def avatar(self, raw: Reconstruction, identity: Identity) -> Avatar:
        """Return the avatar of predicted Gaussians on one body shape; transparent UV points are dropped."""
        shape_used = self.body.assets.body.shapedirs.shape[-1]
        if identity.betas[shape_used:].any():
            log.warning(
                "the tracked person has shape coefficients beyond the %d of the body model in use: the video was "
                "tracked with another body model (give its --model_path), the result will not fit",
                shape_used,
            )
        return Avatar.build(
            self.body, identity.to(self.device), raw.vertex, raw.uv, self.config.opacity_threshold, raw.source
        )

    @torch.no_grad()
    def infer(
        self, source: Source, *, uv_noise: Sequence[Tensor] | None = None, pixel_faces: Tensor | None = None
    ) -> Reconstruction:
        """Return everything the network computes for an avatar.

        `pixel_faces` [S, S] int32 replaces the result of the z-buffer: the visible face of each source pixel, -1 for
        none.
        """
        posed = self.body(source.identity.to(self.device), source.motion.to(self.device))
        image, viewmat = source.image[None].to(self.device), source.viewmat.to(self.device)
        S = source.image.shape[-1]
        lens = None if source.K is None else Lens.of(source.K, S, S)
        raw: Reconstruction = self.network(
            image, posed, viewmat, self.body.assets, uv_noise, pixel_faces, lens, source.picture
        )
        return raw

    @torch.no_grad()
    def render(self, posed: PosedGaussians, cameras: Cameras, background: Tensor) -> Tensor:
        """Return RGB [T, 3, H, W] 0..1 of T posed frames through T cameras (or one).

        `background` is [T or 1, 3, H, W], 0..1.
        """
        if self.fast:
            rgb, alpha = self._render_half(posed, cameras)
        else:
            layers = self.render_layers(posed, cameras)
            rgb, alpha = layers.rgb, layers.alpha
        return composite(rgb, alpha, background.to(self.device))

    @torch.no_grad()
    def render_planes(self, posed: PosedGaussians, cameras: Cameras, background: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames in the encoder's format: uint8 I420 planes [T, 3 H / 2, W] on the GPU.

        Without synchronisation, except for models with `source_pixels`.

        The second result, int32 [T], is not 0 for frames with pixels that are not finite. Arguments as `render`;
        available only when `fast`.
        """
        from guava_aug.render.finish_triton import finish  # noqa: PLC0415 - needs Triton

        return finish(*self._render_half(posed, cameras), background.to(self.device))

    def _render_half(self, posed: PosedGaussians, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """Return RGB [T, 3, H, W] float16 and alpha [T, 1, H, W].

        The refiner's first layer is applied to the features before splatting.
        """
        from guava_aug.render.rasterize_triton import draw  # noqa: PLC0415 - needs Triton

        assert self._half is not None
        self._check_size(cameras)
        viewmats = cameras.viewmats.to(self.device, non_blocking=True).expand(len(posed), -1, -1)
        drawn = draw(
            posed.means, posed.quats, posed.scales, posed.opacities, self._half.project(posed.features), viewmats,
            cameras.K.cpu(), cameras.width, cameras.height, channels_last=True, bias=self._half.first_bias,
            out=self._half.canvas(len(posed)),
        )  # fmt: skip
        rgb = self._half(drawn.image)
        if posed.source is None:
            return rgb, drawn.alpha
        return self._blend(rgb, drawn.alpha, self._draw_places(posed, cameras), posed.source), drawn.alpha

    @torch.no_grad()
    def render_layers(self, posed: PosedGaussians, cameras: Cameras) -> Rendered:
        """Return refined colour, alpha and the raw feature render."""
        if posed.source is None:
            raster = self.rasterize(posed, cameras)
            return Rendered(self.refine(raster.image), raster.alpha, raster)
        if resolve_backend(self.backend, self.device) == "triton":
            raster, places = self.rasterize(posed, cameras), self._draw_places(posed, cameras)
        else:
            raster, places = self._rasterize_both(posed, cameras)
        rgb = self._blend(self.refine(raster.image), raster.alpha, places, posed.source)
        return Rendered(rgb, raster.alpha, raster)

    def _draw_places(self, posed: PosedGaussians, cameras: Cameras) -> Tensor:
        """Return maps to the source picture splatted by Triton, [T, 7, H, W]."""
        viewmats = cameras.viewmats.to(self.device).expand(len(posed), -1, -1)
        return posed.draw_maps(viewmats, cameras.K, cameras.width, cameras.height)

    def _rasterize_both(self, posed: PosedGaussians, cameras: Cameras) -> tuple[Raster, Tensor]:
        """Return features and maps to the source picture, in one pass; frame by frame, as maps differ between them."""
        assert posed.source is not None
        viewmats = cameras.viewmats.to(self.device).expand(len(posed), -1, -1)
        maps, parts = posed.source.maps(posed.means, viewmats, cameras.K, cameras.width, cameras.height), []
        for t in range(len(posed)):
            both = replace(posed[t : t + 1], features=torch.cat([posed.features, maps[t]], 1))
            parts.append(self.rasterize(both, cameras[t : t + 1] if len(cameras) > 1 else cameras))
        drawn = Raster(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Raster)))
        channels = posed.features.shape[1]
        return replace(drawn, image=drawn.image[:, :channels]), drawn.image[:, channels:]

    def _blend(self, rgb: Tensor, alpha: Tensor, places: Tensor, source: SourcePixels) -> Tensor:
        """Return refined colours with the source frame's own pixels."""
        batches = zip(*(t.split(_BLENDED) for t in (rgb, alpha, places)), strict=True)
        picture = source.picture[None]
        return torch.cat([self.network.source_blend(*b, picture.expand(len(b[0]), -1, -1, -1)) for b in batches])

    @torch.no_grad()
    def rasterize(self, posed: PosedGaussians, cameras: Cameras) -> Raster:
        """Return the feature channels, alpha and inverse depth of T posed frames through T cameras (or one)."""
        self._check_size(cameras)
        cameras = cameras.to(self.device)
        return rasterize(
            posed.means, posed.quats, posed.scales, posed.opacities, posed.features,
            cameras.viewmats.expand(len(posed), -1, -1), cameras.K, cameras.width, cameras.height,
            backend=self.backend,
        )  # fmt: skip

    def _check_size(self, cameras: Cameras) -> None:
        if cameras.width != self.config.image_size or cameras.height != self.config.image_size:
            raise UsageError(
                f"the refiner works at {self.config.image_size} x {self.config.image_size} pixels; "
                f"the cameras have {cameras.width} x {cameras.height}"
            )

    @torch.no_grad()
    def refine(self, features: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Return RGB [T, 3, H, W] 0..1 of rendered features [T, C, H, W].

        The original draws the generator's noise anew for every frame, so its videos flicker and no two runs agree. Here
        it is one fixed set of maps (seed `REFINER_NOISE_SEED`) unless `noise` replaces them: one [1, 1, s, s] per
        `model.refiner.noise_sizes`.
        """
        noise = self.refiner_noise if noise is None else noise
        # a CPU gains nothing from a batch, and the activations of one frame stay nearer to its caches
        features = features.contiguous(memory_format=torch.channels_last)
        batches = features.split(1) if features.device.type == "cpu" else (features,)
        return torch.cat([torch.sigmoid(self.refiner(batch, noise)) for batch in batches])


def choose_precision(asked: str, device: torch.device | str, backend: str = "auto") -> str:
    """Return "fp16" or "fp32": the precision of rendering on `device`.

    Raises:
        UsageError: There is no such precision.
        DeviceError: "fp16" was requested and is not available.
    """
    if asked not in PRECISIONS:
        raise UsageError(f"--precision is {asked!r}; expected one of {', '.join(PRECISIONS)}")
    can = backend in ("auto", "triton") and triton_usable(device)
    if asked == "fp16" and not can:
        raise DeviceError(
            f"--precision fp16 needs a CUDA GPU with Triton and the Triton rasteriser (device {device}, backend "
            f"{backend}); use --precision auto"
        )
    return "fp16" if can and asked != "fp32" else "fp32"


def refiner_noise(refiner: StyleUNet, seed: int, device: torch.device | str) -> list[Tensor]:
    """Return the refiner's fixed noise maps, the same on every machine and device."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 1, s, s, generator=generator).to(device) for s in refiner.noise_sizes]


def load_model(
    model_path: Path | str | None = None,
    device: torch.device | str = "cpu",
    *,
    guava_root: Path | str | None = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
) -> GuavaModel:
    """Return a model on `device`.

    Args:
        model_path: A directory in GUAVA's layout (config.yaml, checkpoints/best*.pt), a `.pt`, a `.safetensors` written
            by `guava-aug convert`, or None / "embedded" for the small free model that ships with the package.
            Body-model and index files are searched beside the model directory (assets/SMPLX, assets/FLAME) and then
            below `guava_root`/assets.
        device: Torch device.
        guava_root: Folder of a GUAVA checkout, see above.
        backend: Rasteriser, see `render.rasterize.rasterize`.
        precision: "fp16" renders in half precision (a GPU with Triton; within 2/255 of "fp32"), "auto" does so where
            possible, "fp32" is the original's arithmetic. Reconstruction and posing are float32 in all cases.

    Raises:
        AssetError: A file is missing or does not fit; names it.
        DeviceError: `device` cannot be used, or does not support `backend` or `precision`.
    """
    check_backend(backend, device)
    path = model_location(model_path)
    if path.exists():
        warm_up(device, compile_kernel, with_triton=backend in ("auto", "triton"))
    checkpoint, config = open_model_files(path, guava_root=guava_root)
    assets = _body_of(checkpoint, guava_root)
    try:
        with bare_modules():
            network = ReconstructionNetwork(config, len(assets.body.v_template))
            refiner = StyleUNet(config.refiner)
    except (ValueError, RuntimeError, KeyError, IndexError, ZeroDivisionError, AssertionError) as error:
        raise AssetError(f"{checkpoint.path}: there is no network of this configuration: {one_line(error)}") from error
    if assets.uv_size != config.uvmap_size:
        raise AssetError(
            f"{checkpoint.path}: its body model has a chart of {assets.uv_size} texels, uvmap_size is "
            f"{config.uvmap_size}"
        )
    load_weights(checkpoint, network, refiner)
    with device_errors(str(device)):
        network, refiner = network.to(device).float(), refiner.to(device).float()
        body, source = EhmModel(assets.to(device)), str(checkpoint.path)
        return GuavaModel(config, network, refiner, body, backend=backend, precision=precision, source=source)


def load_body(model_path: Path | str | None = None, *, guava_root: Path | str | None = None) -> EhmModel:
    """Return only the body model, on the CPU, of a model given as in `load_model`.

    Raises:
        AssetError: As in `load_model`.
    """
    path = model_location(model_path)
    checkpoint, _ = open_model_files(path, guava_root=guava_root)
    return EhmModel(_body_of(checkpoint, guava_root))


def _body_of(checkpoint: Checkpoint, guava_root: Path | str | None) -> EhmAssets:
    if checkpoint.assets is None:
        raise AssetError(
            f"no body model for {checkpoint.path}: neither {BODY_FILE} nor the SMPLX/ and FLAME/ folders of GUAVA's "
            f"assets (of which an official checkpoint needs the index files) were found beside it"
            f"{f' or below {guava_root}' if guava_root else ''}; give --guava_root"
        )
    return checkpoint.assets


def convert_checkpoint(
    source: Path | str,
    out: Path | str,
    *,
    config: Path | str | None = None,
    guava_root: Path | str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an official checkpoint as one safetensors file: weights, body model and configuration.

    `source` is a `.pt` file or a model directory. The file contains licensed body-model data, as the checkpoint does,
    and must not be redistributed. Return the path written.

    Raises:
        UsageError: `out` exists, unless `overwrite`.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UsageError(f"{out} should end in .safetensors")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; choose another name, or give --overwrite to replace it")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file to write")
    checkpoint, cfg = open_model_files(Path(source), config=config, guava_root=guava_root)
    if checkpoint.assets is None:
        raise AssetError(f"{checkpoint.path} has no body model inside and none was found; give --guava_root")
    write_safetensors(out, cfg, checkpoint.network, checkpoint.refiner, checkpoint.assets)
    return out


def open_model_files(
    path: Path, *, config: Path | str | None = None, guava_root: Path | str | None = None
) -> tuple[Checkpoint, ModelConfig]:
    """Return the checkpoint and configuration at `path`, with the body model from wherever it is found."""
    path = Path(os.path.abspath(path))  # the siblings of "." too; links stay, a model folder may be one
    if not is_there(path, AssetError):
        raise AssetError(
            f"the model {path} does not exist; expected a folder with config.yaml and checkpoints/, a .pt or a "
            ".safetensors file"
        )
    is_dir = is_folder(path, AssetError)
    file = find_checkpoint(path) if is_dir else path
    roots = [path] if is_dir else [path.parent, path.parent.parent]
    found = (r / "config.yaml" for r in roots)
    config_file = Path(config) if config else next((f for f in found if is_file(f, AssetError)), None)
    cfg = ModelConfig.from_yaml(config_file) if config_file else None
    if cfg is None and file.suffix != ".safetensors":
        read_checkpoint(file)  # a file that is not a checkpoint is reported first
        raise AssetError(f"no config.yaml beside {file}; expected {roots[0] / 'config.yaml'} as in GUAVA's assets")

    asset_roots = [r.parent for r in roots] + ([Path(guava_root) / "assets", Path(guava_root)] if guava_root else [])
    assets_root = next((r for r in asset_roots if is_folder(r / "SMPLX", AssetError)), None)
    checkpoint = read_checkpoint(file, cfg, assets_root)
    cfg = checkpoint.config if checkpoint.config is not None else cfg
    assert cfg is not None
    if checkpoint.assets is None:
        body_file = next((r / BODY_FILE for r in roots if is_file(r / BODY_FILE, AssetError)), None)
        if body_file is not None:
            assets = load_body_file(body_file, cfg.uvmap_size)
        elif assets_root is not None:
            assets = load_official_assets(assets_root, cfg.uvmap_size)
        else:
            assets = None
        checkpoint = Checkpoint(checkpoint.path, checkpoint.network, checkpoint.refiner, assets, cfg)
    return checkpoint, cfg
