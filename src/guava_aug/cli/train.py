"""`guava-aug train`: a network from tracked videos or from synthetic subjects."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
Train a GUAVA network and write a checkpoint for `guava-aug run --model_path OUT`.

Training samples from a pool: a folder with one file of pictures per subject. The same command fills it from videos
tracked by EHM-Tracker (--tracked_root) or with synthetic subjects (--subjects); --pool gives an existing one.
OUT receives model.safetensors (averaged weights, half precision), state.pt (for --resume), log.csv, validation
pictures and run.json. All but tiny networks need a GPU (CUDA with Triton, `pip install guava-aug[train]`).
On several GPUs: torchrun --nproc_per_node 8 -m guava_aug train ...
"""

EXAMPLES = """\
examples:
  guava-aug train --config official --tracked_root tracked --body assets --encoder dinov2_vitb14_pretrain.pth --out RUN
  guava-aug train --config small --subjects 1500 --bank bank.npz --out RUN --minutes 30
  guava-aug train --config small --pool RUN/pool --out RUN --minutes 30 --resume
  guava-aug train --subjects 1500 --pool POOL --prepare_only --workers 16     # while another process trains on POOL
"""


RENAMED = {"people": "subjects", "wait_people": "wait_subjects", "people_per_step": "subjects_per_step"}


@dataclass(frozen=True)
class Subjects:
    """Training data."""

    tracked_root: MaybePath = None
    """Folder of videos tracked by EHM-Tracker, to be added to the pool. SMPL-X videos need --body."""
    video_list: Annotated[tuple[str, ...], arg(metavar="NAME [NAME ...]", help_behavior_hint="")] = ()
    """Only these videos of --tracked_root."""
    frames: Annotated[int, arg(metavar="T")] = 48
    """Frames to use of each tracked video."""
    subjects: MaybeInt = None
    """Number of synthetic subjects to make, on the free body."""
    bank: MaybePath = None
    """Clothes, hair and skins of synthetic subjects, as for `guava-aug evaluate`. Default: painted bodies."""
    variety: Literal["standard", "lifelike", "mixed"] = "mixed"
    """Synthetic subjects: standard, lifelike (loose, patterned clothes, glasses, beards, shadows), or half of each."""
    pictures: Annotated[tuple[int, int], arg(metavar="OLD NEW")] = (8, 16)
    """Pictures of each synthetic subject: through the tracked camera, and from new views."""
    workers: Annotated[int, arg(metavar="N")] = 0
    """Processes that make textures of synthetic subjects; 0: this one only."""
    pool: MaybePath = None
    """Folder of prepared subjects. Existing ones are kept; it may grow during training. Default: OUT/pool."""
    wait_subjects: Annotated[int, arg(metavar="N")] = 1
    """Start when the pool holds this many; another process may be filling it."""
    held_out: MaybePath = None
    """Pool of subjects for validation. If it is empty, --subjects adds the held-out ones, eight of each --variety."""
    prepare_only: Switch = False
    """Only fill the pool, without training."""


@dataclass(frozen=True)
class Network:
    """Network and initial weights."""

    config: Annotated[str, arg(metavar="NAME|FILE")] = "small"
    """small (the embedded model's), official (GUAVA's own), or a YAML file with the sections MODEL and TRAIN."""
    body: MaybePath = None
    """Body model: folder with the licensed SMPLX/ and FLAME/, or a .npz. Default: the free body."""
    encoder: MaybePath = None
    """Initialise the image encoder with DINOv2's weights, as for the official configuration."""
    init: MaybePath = None
    """Initialise from a model: .safetensors of the same sizes (see `guava-aug convert`)."""


@dataclass(frozen=True)
class Training:
    """Duration, device and output."""

    out: Annotated[Path, arg(metavar="OUT")] = Path("training_output")
    """Output folder of the run."""
    resume: Switch = False
    """Continue from OUT/state.pt if it exists."""
    steps: MaybeInt = None
    """Total steps. Default: those of the configuration."""
    minutes: Annotated[float, arg(metavar="M")] = math.inf
    """Save and stop after M minutes. The learning rate decays with steps or minutes, whichever is further on."""
    subjects_per_step: MaybeInt = None
    """Subjects per step and process. Default: those of the configuration."""
    targets: MaybeInt = None
    """Target pictures per subject and step. Default: those of the configuration."""
    device: Annotated[str, arg(metavar="ID")] = "0"
    """GPU number or cpu. Under torchrun each process takes the GPU of its rank."""
    no_graphs: Switch = False
    """Do not use CUDA graphs: slower; for errors in their capture."""
    quiet: Switch = False
    """Print only problems and the paths of the results."""


@dataclass(frozen=True)
class TrainFlags:
    """All flags."""

    subjects: Subjects
    network: Network
    training: Training

    @property
    def pool(self) -> Path:
        """Return the folder of the pool."""
        return self.subjects.pool or self.training.out / "pool"


def main(argv: Sequence[str]) -> int:
    """Return 0 when the run ended as requested, 3 when tracked videos had to be left out."""
    flags = parse(TrainFlags, argv, "guava-aug train", DESCRIPTION, EXAMPLES, renamed=RENAMED)
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
        subjects_per_step=t.subjects_per_step or config.subjects_per_step,
        targets_per_person=t.targets or config.targets_per_person,
        graphs=config.graphs and not t.no_graphs,
    )
    peers = DistributedContext()
    with speaking(t.quiet, False, debug_log_path(flags.pool if flags.subjects.prepare_only else out, None)):
        device = training_device(t.device, peers, flags.subjects.prepare_only)
        assets = load_body(flags.network.body, model_config.uvmap_size)
        left_out = fill_pools(flags, model_config, config, assets, device) if peers.is_main else []
        if not flags.subjects.prepare_only:
            train(flags, model_config, config, assets, device, peers)
    if left_out:
        say(f"left out: {', '.join(left_out)} (guava-aug check {flags.subjects.tracked_root})")
    say(f"subjects: {flags.pool}")
    if not flags.subjects.prepare_only:
        official = f" --guava_root {flags.network.body}" if flags.network.body and flags.network.body.is_dir() else ""
        say(f"model:  {out / 'model.safetensors'}")
        say(f"use it: guava-aug run --model_path {out}{official} ...")
    return SOME_FAILED if left_out else OK


def check_flags(flags: TrainFlags) -> None:
    """Raise UsageError when there are no training subjects, or flags exclude each other."""
    p, n, t = flags.subjects, flags.network, flags.training
    if p.tracked_root is not None and p.subjects is not None:
        raise UsageError("--tracked_root and --subjects exclude each other; fill one pool after the other")
    fills = p.tracked_root is not None or p.subjects is not None
    if p.subjects is not None and n.body is not None:
        raise UsageError("--subjects have the free body; leave --body out")
    if p.video_list and p.tracked_root is None:
        raise UsageError("--video_list names videos of --tracked_root; give that too")
    if p.prepare_only and not fills:
        raise UsageError("--prepare_only fills a pool; give --tracked_root or --subjects too")
    if not fills and p.wait_subjects == 1 and not any(flags.pool.glob("person_*.npz")):
        raise UsageError(
            f"{flags.pool} holds no training subjects; give --tracked_root (videos tracked by EHM-Tracker), "
            "--subjects N (synthetic ones), or --pool (prepared before)"
        )
    if n.init is not None and n.encoder is not None:
        raise UsageError("--init and --encoder exclude each other: a model has an encoder")
    if n.init is not None and n.init.suffix != ".safetensors":
        raise UsageError(f"--init {n.init}: expected a .safetensors; `guava-aug convert` makes one of a checkpoint")
    counts = [v for v in (t.steps, t.subjects_per_step, t.targets) if v is not None]
    if min(p.frames, p.wait_subjects, *p.pictures, *counts) < 1:
        raise UsageError("--frames, --pictures, --wait_subjects, --steps, --subjects_per_step, --targets: at least 1")
    if not t.minutes > 0:
        raise UsageError(f"--minutes is {t.minutes:g}; expected more than 0")
    if not p.prepare_only and not t.resume and (t.out / "state.pt").exists():
        raise UsageError(f"{t.out} holds a run; --resume continues it, another --out starts a new one")


def training_device(asked: str, peers: DistributedContext, prepare_only: bool) -> torch.device:
    """Return the device to train on; warn about a CPU.

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
            "training on a CPU is for tests only: with the small configuration, every picture of a step takes about "
            "40 s and 5 GB on two cores"
        )
    return device


def fill_pools(
    flags: TrainFlags, config: ModelConfig, train_config: TrainConfig, assets: EhmAssets, device: torch.device
) -> list[str]:
    """Fill the pool; return the names of videos that could not be used."""
    from guava_aug.apps.training.prepare import add_videos

    p = flags.subjects
    if p.tracked_root is not None:
        return add_videos(flags.pool, p.tracked_root, p.video_list, assets, p.frames, config.image_size)
    if p.subjects is not None:
        from guava_aug.apps.synthetic.bank import Bank
        from guava_aug.apps.synthetic.pairs import HELD_OUT, TRAINING_SEEDS
        from guava_aug.apps.synthetic.varieties import VARIETIES
        from guava_aug.apps.training.generate import Realism, generate
        from guava_aug.apps.training.prepare import check_subjects_count

        check_subjects_count(p.subjects, TRAINING_SEEDS)
        bank = Bank.load(p.bank) if p.bank else Bank.bare()
        tracked, new = p.pictures
        groups: list[tuple[Path, Sequence[int]]] = [(flags.pool, range(p.subjects))]
        if p.held_out is not None and not any(p.held_out.glob("person_*.npz")):
            wanted = VARIETIES if p.variety == "mixed" else (p.variety,)
            groups.insert(0, (p.held_out, [seed for v in wanted for seed in HELD_OUT[v]]))
        for folder, seeds in groups:
            # held-out subjects are exact, so that figures of different runs can be compared
            realism = Realism(train_config.lenses, train_config.tracker_errors) if folder == flags.pool else None
            made = generate(
                bank, folder, seeds, device, tracked=tracked, others=new, workers=p.workers, variety=p.variety,
                realism=realism,
            )  # fmt: skip
            for path in made:
                log.info("%s (of %d subjects)", path, len(seeds))
    return []


def train(
    flags: TrainFlags, model_config: ModelConfig, config: TrainConfig, assets: EhmAssets, device: torch.device,
    peers: DistributedContext,
) -> None:  # fmt: skip
    """Train, and save the run at the end, also when it is interrupted."""
    from guava_aug.apps.synthetic import default_body_path
    from guava_aug.apps.training.data import Pool
    from guava_aug.apps.training.train import Run
    from guava_aug.avatar.model import BODY_FILE

    t, body = flags.training, flags.network.body
    run = Run(model_config, config, assets, t.out, device)
    start_from(run, flags)
    pool = Pool(flags.pool, device)
    wait_for_subjects(pool, flags.subjects.wait_subjects)
    held_out = check_subjects(flags, pool, model_config, config, assets, device)
    if peers.is_main:
        write_run(flags, model_config, config, device, len(pool.subjects))
        if body is None or body.is_file():  # so that the run's folder is a model folder
            shutil.copyfile(body or default_body_path(), t.out / BODY_FILE)
    try:
        run.train(pool, t.minutes * 60, held_out)
    except KeyboardInterrupt:
        if peers.is_main:
            run.save()
            log.warning("stopped at step %d and saved; --resume continues", run.step)
        raise
    finally:
        peers.close()


def start_from(run: Run, flags: TrainFlags) -> None:
    """Load the initial weights, or those of the run to resume."""
    from guava_aug.apps.training.prepare import read_encoder

    state = flags.training.out / "state.pt"
    if flags.training.resume and state.exists():
        run.resume(state)
        log.info("continuing at step %d of %d", run.step, run.config.steps)
    elif flags.network.init is not None:
        run.resume(flags.network.init)
    elif flags.network.encoder is not None:
        for model in (run.model, run.average):
            encoder = model.network.dino_encoder.dino_model
            encoder.load_state_dict(read_encoder(flags.network.encoder, encoder.state_dict()))


def wait_for_subjects(pool: Pool, count: int) -> None:
    """Wait until the pool holds `count` subjects."""
    pool.refresh()
    if len(pool.subjects) < count:
        log.info("%s holds %d subjects; waiting for %d", pool.folder, len(pool.subjects), count)
    while len(pool.subjects) < count:
        if not pool.refresh():
            time.sleep(1)


def check_subjects(
    flags: TrainFlags, pool: Pool, model_config: ModelConfig, config: TrainConfig, assets: EhmAssets,
    device: torch.device,
) -> list[PersonViews] | None:  # fmt: skip
    """Return the subjects to validate on. Raises InputError when subjects do not fit the configuration."""
    from guava_aug.apps.training.data import PersonViews
    from guava_aug.apps.training.prepare import check_person, check_pool

    check_pool(pool, model_config, assets, config.targets_per_person)
    folder = flags.subjects.held_out
    if folder is None:
        return None
    subjects = [PersonViews.load(path).to(device) for path in sorted(folder.glob("person_*.npz"))]
    for person in subjects:
        check_person(person, model_config, assets, f"the subjects in {folder}")
    return subjects or None


def write_run(
    flags: TrainFlags, model_config: ModelConfig, config: TrainConfig, device: torch.device, subjects: int
) -> None:
    """Write OUT/run.json: flags, versions, machine and configuration."""
    from dataclasses import asdict

    from guava_aug.batch.journal.run_record import machine, versions, write_record

    write_record(
        flags.training.out / "run.json",
        {
            "flags": asdict(flags), "people_at_start": subjects, "machine": machine(str(device)),
            "versions": versions(),
            "model": model_config.to_dict(), "train": asdict(config),
        },
    )  # fmt: skip
