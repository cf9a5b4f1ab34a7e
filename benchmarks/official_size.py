"""A model of the official sizes that anybody can make: `python benchmarks/official_size.py FILE.safetensors`.

The official configuration on the free body that ships with the package (UV map of 512, about 168,000 Gaussians), with
seeded random weights by the rule of the reference data, which makes splats of a likely size. Its pictures mean
nothing; its speed is that of the official checkpoint. The programs beside this one make and use it unless they are
given a --model_path; made once, it stays in the folder for temporary files (0.7 GB).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import torch

from guava_aug.apps.synthetic import default_body_path
from guava_aug.avatar import ModelConfig, ReconstructionNetwork, StyleUNet
from guava_aug.avatar.checkpoint import REFINER_PREFIX, bare_modules, write_safetensors
from guava_aug.body import load_body_file

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "golden"))


def official_size_file(path: Path | None = None) -> Path:
    """The file of the model, written if it is not there. Left out: one for all programs, named by its configuration."""
    config = ModelConfig()
    if path is None:
        digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:12]
        path = Path(tempfile.gettempdir()) / "guava-aug-benchmarks" / f"official_size_{digest}.safetensors"
    if path.exists():
        return path
    from golden_weights import fill_array  # type: ignore[import-not-found]

    assets = load_body_file(default_body_path(), config.uvmap_size)
    with bare_modules():
        modules = ReconstructionNetwork(config, len(assets.body.v_template)), StyleUNet(config.refiner)
    network, refiner = (
        {k: torch.from_numpy(fill_array(prefix + k, v.shape)) for k, v in module.state_dict().items()}
        for module, prefix in zip(modules, ("", REFINER_PREFIX), strict=True)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}")
    write_safetensors(unfinished, config, network, refiner, assets)
    os.replace(unfinished, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="default: where the other programs look for it")
    path = official_size_file(parser.parse_args().file)
    print(f"{path} ({path.stat().st_size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
