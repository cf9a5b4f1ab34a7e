"""Two processes agree; one alone is left alone."""

import os
import socket
import subprocess
import sys

import torch

from guava_aug.apps.training.distributed import DistributedContext

_PROGRAM = """
import torch
from guava_aug.apps.training.distributed import DistributedContext
p = DistributedContext()
g = [torch.full((2, 2), float(p.rank)), torch.full((3,), 10.0 * p.rank)]
p.all_reduce_mean(g)
print(g[0].tolist(), g[1].tolist(), p.broadcast(p.rank + 0.25, 7.0), p.is_main)
p.close()
"""


def test_two_processes_average_gradients_and_follow_the_first():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    common = {**os.environ, **address, "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    said = [p.communicate(timeout=300)[0].strip().splitlines()[-1] for p in running]
    half = "[[0.5, 0.5], [0.5, 0.5]] [5.0, 5.0, 5.0] [0.25, 7.0]"
    assert said == [f"{half} True", f"{half} False"]


def test_alone_nothing_changes(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    peers = DistributedContext()
    gradient = torch.ones(3)
    peers.all_reduce_mean([gradient])
    assert torch.equal(gradient, torch.ones(3)) and peers.is_main and peers.broadcast(0.5) == [0.5]
