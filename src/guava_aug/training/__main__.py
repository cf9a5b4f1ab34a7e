"""python -m guava_aug.training --config demo.yaml --pool POOL --out RUN [--resume RUN/state.pt]"""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import replace
from pathlib import Path

import torch

from ..body import load_body_file
from ..demo import default_body_path
from .config import TrainConfig
from .data import PersonViews, Pool
from .peers import Peers
from .train import Run

DEMO_CONFIG = Path(__file__).parent / "configs" / "demo.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m guava_aug.training", description="train a GUAVA network")
    parser.add_argument("--config", type=Path, default=DEMO_CONFIG, help="YAML with MODEL and TRAIN")
    parser.add_argument("--pool", type=Path, required=True, help="folder of training people (see .generate)")
    parser.add_argument("--held_out", type=Path, help="folder of people to validate on")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN")
    parser.add_argument("--resume", type=Path, help="state.pt to go on from, or model.safetensors to start from")
    parser.add_argument("--steps", type=int, help="total steps; the learning rate falls towards this")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop and save after this long")
    parser.add_argument("--body", type=Path, default=default_body_path(), help="body model (.npz)")
    parser.add_argument("--wait_people", type=int, default=1, help="start when the pool holds this many")
    parser.add_argument("--no_graphs", action="store_true", help="kernel by kernel instead of CUDA graphs")
    parser.add_argument("--people_per_step", type=int, help="per process")
    parser.add_argument("--targets", type=int, help="pictures per person and step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    model_config, config = TrainConfig.from_yaml(args.config)
    given = {"steps": args.steps, "people_per_step": args.people_per_step, "targets_per_person": args.targets}
    config = replace(
        config, graphs=config.graphs and not args.no_graphs, **{k: v for k, v in given.items() if v is not None}
    )
    peers = Peers()
    device = torch.device(args.device, peers.local_rank) if args.device == "cuda" else torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    run = Run(model_config, config, load_body_file(args.body, model_config.uvmap_size), args.out, device)
    if args.resume:
        run.resume(args.resume)
    pool = Pool(args.pool, device)
    while len(pool.people) < args.wait_people:
        if not pool.refresh():
            time.sleep(1)
    held_out = [PersonViews.load(p).to(device) for p in sorted(args.held_out.glob("*.npz"))] if args.held_out else None
    run.train(pool, args.minutes * 60, held_out)
    peers.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
