"""Several processes that train one network: the same weights everywhere, gradients averaged."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class DistributedContext:
    """The processes `torchrun` started, or this one alone."""

    def __init__(self) -> None:
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))

    def _init_process_group(self) -> None:
        """Connect to the others, when first needed: NCCL's threads would disturb the capture of CUDA graphs."""
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")

    @property
    def is_main(self) -> bool:
        """Return whether this is the process that writes files and the log."""
        return self.rank == 0

    def all_reduce_mean(self, gradients: Sequence[Tensor]) -> None:
        """Replace every gradient by its mean over the processes, in place and in one message."""
        if self.world == 1:
            return
        self._init_process_group()
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        parts = (flat / self.world).split([g.numel() for g in gradients])
        torch._foreach_copy_(list(gradients), [p.view(g.shape) for p, g in zip(parts, gradients, strict=True)])

    def broadcast(self, *values: float) -> list[float]:
        """Return the values of the main process."""
        if self.world == 1:
            return list(values)
        self._init_process_group()
        device = torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return [float(value) for value in shared]

    def close(self) -> None:
        """Leave the process group, if there is one."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()
