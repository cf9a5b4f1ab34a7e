"""`guava-aug train`: a network from tracked videos or from synthetic people."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from guava_aug.cli.exit_codes import OK, SOME_FAILED, catch_sigterm
from guava_aug.cli.parsing import MaybePath, Switch, parse
from guava_aug.cli.streams import say
from guava_aug.errors import DeviceError, UsageError

if TYPE_CHECKING:
    import torch

    from guava_aug.apps.training.config import TrainConfig
    from guava_aug.apps.training.data import PersonViews, Pool
    from guava_aug.apps.training.distributed import DistributedContext
    from guava_aug.apps.training.train import Run
    from guava_aug.avatar.config import ModelConfig
    from guava_aug.body import EhmAssets

log = logging.getLogger(__name__)
MaybeInt = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]

DESCRIPTION = """\
Train a GUAVA network and write a checkpoint that `guava-aug run --model_path OUT` takes.

Training draws from a pool: a folder with one file of pictures per person. Fill it in the same command from videos that
EHM-Tracker has tracked (--tracked_root) or with synthetic people (--people), or give one made before (--pool).
OUT gets model.safetensors (averaged weights, half precision), state.pt (to go on from), log.csv, validation pictures
and run.json. A GPU (CUDA with Triton, `pip install guava-aug[train]`) is needed for anything but tiny networks.
On several GPUs: torchrun --nproc_per_node 8 -m guava_aug train ...
"""

EXAMPLES = """\
examples:
  guava-aug train --config official --tracked_root tracked --body assets --encoder dinov2_vitb14_pretrain.pth --out RUN
  guava-aug train --config small --people 1500 --bank bank.npz --out RUN --minutes 30
  guava-aug train --config small --pool RUN/pool --out RUN --minutes 30 --resume
  guava-aug train --people 1500 --pool POOL --prepare_only --workers 16     # while another process trains on POOL
"""


@dataclass(frozen=True)
class People:
    """Whom to train on."""

    tracked_root: MaybePath = None
    """Folder of videos that EHM-Tracker has tracked; they are put into the pool. With SMPL-X videos give --body."""
    video_list: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint="")] = ()
    """Only these videos of --tracked_root."""
    frames: Annotated[int, arg(metavar="T")] = 48
    """Pictures taken of each tracked video."""
    people: MaybeInt = None
    """Synthetic people to make, on the free body."""
    bank: MaybePath = None
    """Clothes, hair and skins of the synthetic people, as for `guava-aug evaluate`. Left out: painted bodies."""
    pictures: Annotated[tuple[int, int], arg(metavar="OLD NEW")] = (8, 16)
    """Pictures of each synthetic person: through the tracked camera, and from new views."""
    workers: Annotated[int, arg(metavar="N")] = 0
    """Processes that make synthetic people's textures; 0: none besides this one."""
    pool: MaybePath = None
    """Folder of prepared people. What is there is kept, and it may grow while training. Left out: OUT/pool."""
    wait_people: Annotated[int, arg(metavar="N")] = 1
    """Begin when the pool holds so many; another process may be filling it."""
    held_out: MaybePath = None
    """Pool of people to validate on. If it is empty, --people puts the eight there that are never trained on."""
    prepare_only: Switch = False
    """Fill the pool, and do not train."""


@dataclass(frozen=True)
class Network:
    """What to train."""

    config: Annotated[str, arg(metavar="NAME|FILE")] = "small"
    """small (the embedded model's), official (GUAVA's own), or a YAML file with the sections MODEL and TRAIN."""
    body: MaybePath = None
    """Body model: folder with the licensed SMPLX/ and FLAME/, or a .npz. Left out: the free body."""
    encoder: MaybePath = None
    """Start the image encoder from DINOv2's weights; the official configuration was trained so."""
    init: MaybePath = None
    """Start from the weights of a model: .safetensors of the same sizes (`guava-aug convert` makes one)."""


@dataclass(frozen=True)
class Training:
    """How long, and where."""

    out: Annotated[Path, arg(metavar="OUT")] = Path("training_output")
    """Folder of the run."""
    resume: Switch = False
    """Go on from OUT/state.pt if there is one. The same command then serves for every stretch."""
    steps: MaybeInt = None
    """Steps in all. Left out: what the configuration says."""
    minutes: Annotated[float, arg(metavar="M")] = math.inf
    """Save and stop after so long. The learning rate falls with whichever of steps and minutes is further on."""
    people_per_step: MaybeInt = None
    """People per step and process. Left out: what the configuration says."""
    targets: MaybeInt = None
    """Pictures per person and step. Left out: what the configuration says."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """GPU number or cpu. Under torchrun each process takes the GPU of its rank."""
    no_graphs: Switch = False
    """Launch kernel by kernel instead of CUDA graphs: slower; for errors in the capture."""
    quiet: Switch = False
    """Only problems and where the results are."""


@dataclass(frozen=True)
class TrainFlags:
    """All flags."""

    people: People
    network: Network
    training: Training

    @property
    def pool(self) -> Path:
        return self.people.pool or self.training.out / "pool"


def main(argv: Sequence[str]) -> int:
    """0 when the run ended as asked, 3 when tracked videos had to be left out."""
    flags = parse(TrainFlags, argv, "guava-aug train", DESCRIPTION, EXAMPLES)
    catch_sigterm()
    check_flags(flags)
    from guava_aug.apps.training.config import TrainConfig, find_config
    from guava_aug.apps.training.distributed import DistributedContext
    from guava_aug.apps.training.prepare import load_body
    from guava_aug.batch.journal.run_record import debug_log_path
    from guava_aug.cli.terminal import speaking

    out, t = flags.training.out, flags.training
    model_config, config = TrainConfig.from_yaml(find_config(flags.network.config))
    config = replace(
        config,
        steps=t.steps or config.steps,
        people_per_step=t.people_per_step or config.people_per_step,
        targets_per_person=t.targets or config.targets_per_person,
        graphs=config.graphs and not t.no_graphs,
    )
    peers = DistributedContext()
    with speaking(t.quiet, False, debug_log_path(flags.pool if flags.people.prepare_only else out, None)):
        device = training_device(t.device, peers, flags.people.prepare_only)
        assets = load_body(flags.network.body, model_config.uvmap_size)
        left_out = fill_pools(flags, model_config, assets, device) if peers.is_main else []
        if not flags.people.prepare_only:
            train(flags, model_config, config, assets, device, peers)
    if left_out:
        say(f"left out: {', '.join(left_out)} (guava-aug check {flags.people.tracked_root})")
    say(f"people: {flags.pool}")
    if not flags.people.prepare_only:
        official = f" --guava_root {flags.network.body}" if flags.network.body and flags.network.body.is_dir() else ""
        say(f"model:  {out / 'model.safetensors'}")
        say(f"use it: guava-aug run --model_path {out}{official} ...")
    return SOME_FAILED if left_out else OK


def check_flags(flags: TrainFlags) -> None:
    """Raises UsageError when there is nobody to train on, or flags exclude each other."""
    p, n, t = flags.people, flags.network, flags.training
    if p.tracked_root is not None and p.people is not None:
        raise UsageError("--tracked_root and --people exclude each other; fill one pool after the other")
    fills = p.tracked_root is not None or p.people is not None
    if p.people is not None and n.body is not None:
        raise UsageError("--people have the free body; leave --body out")
    if p.video_list and p.tracked_root is None:
        raise UsageError("--video_list names videos of --tracked_root; give that too")
    if p.prepare_only and not fills:
        raise UsageError("--prepare_only: with whom? Give --tracked_root or --people")
    if not fills and p.wait_people == 1 and not any(flags.pool.glob("person_*.npz")):
        raise UsageError(
            f"there is nobody to train on in {flags.pool}; give --tracked_root (videos that EHM-Tracker has tracked), "
            "--people N (synthetic ones), or --pool (prepared before)"
        )
    if n.init is not None and n.encoder is not None:
        raise UsageError("--init and --encoder exclude each other: a model has an encoder")
    if n.init is not None and n.init.suffix != ".safetensors":
        raise UsageError(f"--init {n.init}: expected a .safetensors; `guava-aug convert` makes one of a checkpoint")
    counts = [v for v in (t.steps, t.people_per_step, t.targets) if v is not None]
    if min(p.frames, p.wait_people, *p.pictures, *counts) < 1:
        raise UsageError("--frames, --pictures, --wait_people, --steps, --people_per_step, --targets: at least 1")
    if not t.minutes > 0:
        raise UsageError(f"--minutes is {t.minutes:g}; expected more than 0")
    if not p.prepare_only and not t.resume and (t.out / "state.pt").exists():
        raise UsageError(f"{t.out} holds a run; --resume goes on with it, another --out begins a new one")


def training_device(asked: str, peers: DistributedContext, prepare_only: bool) -> torch.device:
    """Where to train; says once what a CPU is good for.

    Raises:
        DeviceError: a GPU without Triton.
    """
    import torch

    from guava_aug.runtime.device import choose_device

    device = torch.device(choose_device(str(peers.local_rank) if peers.world > 1 and asked != "cpu" else asked))
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if not prepare_only and find_spec("triton") is None:
            raise DeviceError(
                "training on a GPU needs Triton, which is not installed here: pip install 'guava-aug[train]'; "
                "--device cpu does without, very slowly"
            )
    elif not prepare_only:
        log.warning(
            "training on a CPU is only for trying out: of the small configuration, every picture of a step takes "
            "about 40 s and 5 GB on two cores"
        )
    return device


def fill_pools(flags: TrainFlags, config: ModelConfig, assets: EhmAssets, device: torch.device) -> list[str]:
    """Puts the people that were asked for into the pool; names of the videos that could not be used."""
    from guava_aug.apps.training.prepare import add_videos

    p = flags.people
    if p.tracked_root is not None:
        return add_videos(flags.pool, p.tracked_root, p.video_list, assets, p.frames, config.image_size)
    if p.people is not None:
        from guava_aug.apps.synthetic.bank import Bank
        from guava_aug.apps.synthetic.pairs import HELD_OUT_SEEDS, TRAINING_SEEDS
        from guava_aug.apps.training.generate import generate
        from guava_aug.apps.training.prepare import check_people_count

        check_people_count(p.people, TRAINING_SEEDS)
        bank = Bank.load(p.bank) if p.bank else Bank.bare()
        tracked, new = p.pictures
        groups = [(flags.pool, range(p.people))]
        if p.held_out is not None and not any(p.held_out.glob("person_*.npz")):
            groups.insert(0, (p.held_out, range(HELD_OUT_SEEDS[0], HELD_OUT_SEEDS[-1] + 1)))
        for folder, seeds in groups:
            made = generate(bank, folder, seeds, device, tracked=tracked, others=new, workers=p.workers)
            for path in made:
                log.info("%s (of %d people)", path, len(seeds))
    return []


def train(
    flags: TrainFlags, model_config: ModelConfig, config: TrainConfig, assets: EhmAssets, device: torch.device,
    peers: DistributedContext,
) -> None:  # fmt: skip
    """Makes the run and lets it train; on the way out, also an unasked one, it is saved."""
    from guava_aug.apps.synthetic import default_body_path
    from guava_aug.apps.training.data import Pool
    from guava_aug.apps.training.train import Run
    from guava_aug.avatar.model import BODY_FILE

    t, body = flags.training, flags.network.body
    run = Run(model_config, config, assets, t.out, device)
    start_from(run, flags)
    pool = Pool(flags.pool, device)
    wait_for_people(pool, flags.people.wait_people)
    held_out = check_people(flags, pool, model_config, config, assets, device)
    if peers.is_main:
        write_run(flags, model_config, config, device, len(pool.people))
        if body is None or body.is_file():  # so that the run's folder is a model folder
            shutil.copyfile(body or default_body_path(), t.out / BODY_FILE)
    try:
        run.train(pool, t.minutes * 60, held_out)
    except KeyboardInterrupt:
        if peers.is_main:
            run.save()
            log.warning("stopped at step %d and saved; --resume goes on", run.step)
        raise
    finally:
        peers.close()


def start_from(run: Run, flags: TrainFlags) -> None:
    """Puts the weights to begin with into the run."""
    from guava_aug.apps.training.prepare import read_encoder

    state = flags.training.out / "state.pt"
    if flags.training.resume and state.exists():
        run.resume(state)
        log.info("going on at step %d of %d", run.step, run.config.steps)
    elif flags.network.init is not None:
        run.resume(flags.network.init)
    elif flags.network.encoder is not None:
        for model in (run.model, run.average):
            encoder = model.network.dino_encoder.dino_model
            encoder.load_state_dict(read_encoder(flags.network.encoder, encoder.state_dict()))


def wait_for_people(pool: Pool, count: int) -> None:
    """Returns when the pool holds `count` people; says what it waits for."""
    pool.refresh()
    if len(pool.people) < count:
        log.info("%s holds %d people; waiting for %d", pool.folder, len(pool.people), count)
    while len(pool.people) < count:
        if not pool.refresh():
            time.sleep(1)


def check_people(
    flags: TrainFlags, pool: Pool, model_config: ModelConfig, config: TrainConfig, assets: EhmAssets,
    device: torch.device,
) -> list[PersonViews] | None:  # fmt: skip
    """The people to validate on; pool and held-out people fit the run. Raises InputError."""
    from guava_aug.apps.training.data import PersonViews
    from guava_aug.apps.training.prepare import check_person, check_pool

    check_pool(pool, model_config, assets, config.targets_per_person)
    folder = flags.people.held_out
    if folder is None:
        return None
    people = [PersonViews.load(path).to(device) for path in sorted(folder.glob("person_*.npz"))]
    for person in people:
        check_person(person, model_config, assets, f"the people in {folder}")
    return people or None


def write_run(
    flags: TrainFlags, model_config: ModelConfig, config: TrainConfig, device: torch.device, people: int
) -> None:
    """OUT/run.json: with what the run was made."""
    from dataclasses import asdict

    from guava_aug.batch.journal.run_record import machine, versions, write_record

    write_record(
        flags.training.out / "run.json",
        {
            "flags": asdict(flags), "people_at_start": people, "machine": machine(str(device)), "versions": versions(),
            "model": model_config.to_dict(), "train": asdict(config),
        },
    )  # fmt: skip
