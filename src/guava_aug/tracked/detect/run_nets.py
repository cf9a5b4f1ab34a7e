"""The nets of the detector, loaded on first use, fed with 8-bit pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from guava_aug.tracked.detect.nets import Net, load_net


class NetRunner:
    """Runs nets by name on one device. Not safe for several threads."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._nets: dict[str, Net] = {}

    def size(self, name: str) -> int:
        """Return the side of the net's square input in pixels."""
        return self._net(name).size[0]

    def __call__(self, name: str, pictures: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the net's outputs [N, ...] float32 for N pictures [size, size, 3] uint8 RGB; N may not be 0."""
        net = self._net(name)
        low, high = net.input_range
        batch = torch.from_numpy(np.stack(pictures)).to(self._device).float()
        outputs = net(batch.mul_((high - low) / 255).add_(low))
        return {key: value.cpu().numpy() for key, value in outputs.items()}

    def _net(self, name: str) -> Net:
        if name not in self._nets:
            self._nets[name] = load_net(name, self._device)
        return self._nets[name]
