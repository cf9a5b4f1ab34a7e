"""The training loop, which can stop, save and resume at any step.

A run's folder holds `state.pt` (everything needed to go on), `model.safetensors` (averaged weights, fp16, what
`load_model` reads), `log.csv` and validation pictures.
"""

from __future__ import annotations

import csv
import logging
import math
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from guava_aug.apps.training.config import TrainConfig
from guava_aug.apps.training.data import Batch, PersonViews, Pool, make_batch
from guava_aug.apps.training.distributed import DistributedContext
from guava_aug.apps.training.losses import losses
from guava_aug.apps.training.model import TrainingModel
from guava_aug.apps.training.validation_images import person_psnr, write_grid
from guava_aug.avatar.checkpoint import write_safetensors
from guava_aug.avatar.config import ModelConfig
from guava_aug.body import EhmAssets
from guava_aug.errors import AssetError, InputError, UsageError
from guava_aug.runtime.atomic import atomic_write
from guava_aug.runtime.saved_tensors import SavedTensorsError, load_tensors

log = logging.getLogger(__name__)
_REPORT_EVERY = 50
_AGREE_EVERY = 10  # steps between two agreements of the processes on learning rate and end
_VALIDATION_SEED = 77
_SOURCE_BLEND = "source_blend."


@dataclass
class Run:
    """One training run on one device."""

    model_config: ModelConfig
    config: TrainConfig
    assets: EhmAssets
    out: Path
    device: torch.device

    def __post_init__(self) -> None:
        torch.manual_seed(self.config.seed)
        torch.set_float32_matmul_precision("high")
        self.assets = self.assets.to(self.device)
        self.model = TrainingModel(self.model_config, self.assets).to(self.device)
        self.average = TrainingModel(self.model_config, self.assets).to(self.device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        if self.config.only:
            for name, p in self.model.named_parameters():
                p.requires_grad_(p.requires_grad and name.startswith(self.config.only))
            if not any(p.requires_grad for p in self.model.parameters()):
                raise UsageError(f"TRAIN.only: no weight's name begins with {' or '.join(self.config.only)}")
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(
            self.parameters, lr=self.config.lr, betas=self.config.betas, fused=self.device.type == "cuda"
        )
        self.peers = DistributedContext()
        self.step = 0
        self._warm_from = 0
        self.out.mkdir(parents=True, exist_ok=True)

    # ---- state

    def save(self) -> None:
        """Write both files atomically. Optimiser moments are stored in half precision."""
        moments = [
            {k: v.half() if k == "exp_avg" else v.to(torch.bfloat16) for k, v in s.items() if k != "step"}
            for s in (self.optimizer.state.get(p, {}) for p in self.parameters)
        ]
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "moments": moments,
        }
        with atomic_write(self.out / "state.pt", durable=False) as part:
            torch.save(state, part)
        write_checkpoint(self.out / "model.safetensors", self.average)

    def resume(self, path: Path) -> None:
        """Go on from a `state.pt`, or start from the weights of a `.safetensors`. Raises AssetError."""
        if path.suffix == ".safetensors":
            read_checkpoint_into(path, self.model)
            self.average.load_state_dict(self.model.state_dict())
            return
        try:
            state = load_tensors(path)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
        except (OSError, KeyError, TypeError, RuntimeError, AttributeError, SavedTensorsError) as e:
            raise AssetError(f"cannot resume from {path}: {e}; expected a state.pt of the same configuration") from e
        self.step = self._warm_from = state["step"]
        for p, moments in zip(self.parameters, state["moments"], strict=True):
            if moments:
                self.optimizer.state[p] = {
                    "step": torch.tensor(float(self.step), device=p.device if self.device.type == "cuda" else "cpu"),
                    **{k: v.to(p.device).float() for k, v in moments.items()},
                }

    # ---- work

    def train(self, pool: Pool, seconds: float = math.inf, held_out: list[PersonViews] | None = None) -> None:
        """Train until step `config.steps`, or until `seconds` have passed; saves at the end.

        The learning rate falls with whichever of steps and seconds is further on. With peers, all processes make the
        same steps on subjects of their own choice, and the first one reports, saves and validates.
        """
        if not pool.subjects and not pool.refresh():
            raise InputError(
                f"no training subjects in {pool.folder}; fill it with `guava-aug train --prepare_only`, --subjects or "
                "--tracked_root"
            )
        c, start, mean = self.config, time.monotonic(), _Mean()
        rng = np.random.default_rng([c.seed, self.step, self.peers.rank])
        if self.device.type == "cuda" and c.graphs and not c.only:  # graphs hold whole networks
            size, k = self.model_config.feature_img_size, c.targets_per_person
            like = pool.sample(rng, c.subjects_per_step, k, size)
            self.model.capture_cuda_graphs(like.sources, c.subjects_per_step * k, amp=c.amp)
            log.info("networks captured as CUDA graphs, %.0f s", time.monotonic() - start)
        first, share = self.step, 0.0
        while self.step < c.steps:
            if (self.step - first) % _AGREE_EVERY == 0:
                elapsed = time.monotonic() - start
                share, over = self.peers.broadcast(max(self.step / c.steps, elapsed / seconds), elapsed >= seconds)
                if over:
                    break
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(share)
            batch = pool.sample(
                rng, c.subjects_per_step, c.targets_per_person, self.model_config.feature_img_size, recolor=c.recolor,
                degraded=c.degraded,
            )  # fmt: skip
            mean.add(self._step(batch))
            self.step += 1
            if self.step % _REPORT_EVERY == 0:
                pool.refresh(8)
                elapsed = time.monotonic() - start
                rate = (self.step - first) / elapsed
                left = min((c.steps - self.step) / rate, seconds - elapsed)
                self._report(mean.take(), rate, left, len(pool.subjects))
            if self.step % c.save_every == 0 and self.peers.is_main:
                self.save()
            if held_out and self.step % c.validate_every == 0 and self.peers.is_main:
                self.validate(held_out)
        if self.peers.is_main:
            self.save()
            if held_out:
                self.validate(held_out)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        c = self.config
        amp = c.amp and self.device.type == "cuda"
        predicted = self.model(batch.sources, batch.poses, amp=amp)
        background = torch.rand(*batch.truth.rgb.shape[:3], 1, 1, device=self.device)
        terms = losses(predicted, batch.truth, c.losses, background)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.peers.all_reduce_mean([p.grad for p in self.parameters if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, c.grad_clip)
        if self.device.type == "cuda":  # the fused step skips a bad one by itself, without asking the device
            self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif torch.isfinite(norm):
            self.optimizer.step()
        keep = min(c.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - keep)
            inside = (batch.truth.alpha > 0.5).float()
            ours = predicted.rgb.detach()
            error = ((ours - batch.truth.rgb).square() * inside).sum() / (3 * inside.sum()).clamp(min=1)
        return {k: v.detach() for k, v in (terms | {"total": total, "mse": error, "norm": norm}).items()}

    def _learning_rate(self, share: float) -> float:
        c = self.config
        warm = min(1.0, (self.step - self._warm_from + 1) / max(c.warmup, 1))
        return warm * c.lr * (1 - (1 - c.lr_final) * min(share, 1.0))

    @torch.no_grad()
    def validate(self, subjects: list[PersonViews]) -> Tensor:
        """Return [B, K] person-only PSNR of the averaged weights on held-out subjects; write a picture grid."""
        rng = np.random.default_rng(_VALIDATION_SEED)
        rows = []
        for i, person in enumerate(subjects):
            batch = make_batch([person], rng, 6, self.model_config.feature_img_size)
            predicted = self.average(batch.sources, batch.poses, amp=False)
            rows.append(person_psnr(predicted, batch))
            if i < 4:
                write_grid(self.out / f"validation_{self.step:06d}_{i}.png", predicted, batch)
        found = torch.cat(rows)
        log.info("step %d: held-out person PSNR %.2f dB (%s)", self.step, float(found.mean()),
                 " ".join(f"{float(r.mean()):.1f}" for r in found))  # fmt: skip
        return found

    def _report(self, terms: dict[str, float], rate: float, left: float, subjects: int) -> None:
        dB = -10 * math.log10(terms["mse"] + 1e-10)
        text = " ".join(f"{k} {v:.4f}" for k, v in terms.items() if k not in ("total", "mse", "norm"))
        say = log.info if self.peers.is_main else log.debug
        say(
            "step %d  %.1f/s  %.0f s left  %d subjects  loss %.4f  person %.2f dB  norm %.2f  %s",
            self.step, rate, left, subjects, terms["total"], dB, terms["norm"], text,
        )  # fmt: skip
        if not self.peers.is_main:
            return
        path = self.out / "log.csv"
        fresh = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, ["step", *terms])
            if fresh:
                writer.writeheader()
            writer.writerow({"step": self.step, **{k: f"{v:.6g}" for k, v in terms.items()}})


class _Mean:
    """Means of terms over steps; values stay on the device until taken."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        self.count = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        for k, v in terms.items():
            self.sums[k] = self.sums[k].to(v.device) + v
        self.count += 1

    def take(self) -> dict[str, float]:
        found = {k: float(v) / self.count for k, v in self.sums.items()}
        self.sums.clear()
        self.count = 0
        return found


def write_checkpoint(path: Path, model: TrainingModel) -> None:
    """Write the weights in the format of `guava-aug run`, half precision, without the body model."""
    write_safetensors(
        path, model.config, model.network.state_dict(), model.refiner.state_dict(), None, dtype=torch.float16
    )


def read_checkpoint_into(path: Path, model: TrainingModel) -> None:
    """Load what `write_checkpoint` wrote. Raises AssetError when sizes differ."""
    from guava_aug.avatar.checkpoint import read_checkpoint  # noqa: PLC0415 - only to start from a checkpoint

    checkpoint = read_checkpoint(path)
    try:
        weights = {k: v.float() for k, v in checkpoint.network.items()}
        if model.config.source_pixels and not any(k.startswith(_SOURCE_BLEND) for k in weights):  # learnt from nothing
            weights |= {k: v for k, v in model.network.state_dict().items() if k.startswith(_SOURCE_BLEND)}
        model.network.load_state_dict(weights)
        model.refiner.load_state_dict({k: v.float() for k, v in checkpoint.refiner.items()})
    except RuntimeError as e:
        raise AssetError(f"{path} does not fit the configuration: {e}") from e
