"""`guava-aug slurm`: a ready job script for a SLURM array."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from guava_aug.cli.exit_codes import OK
from guava_aug.cli.flags import POSITIONALS, RunFlags, expand
from guava_aug.cli.parsing import MaybePath, parse
from guava_aug.cli.track import POSITIONALS as VIDEOS
from guava_aug.cli.track import TrackFlags, split_words
from guava_aug.errors import AssetError, InputError, OutputError, UsageError, printable
from guava_aug.output.tree import RUN_FOLDER
from guava_aug.runtime.shutdown import PREEMPTED

DESCRIPTION = """\
Write a job script for a SLURM array to standard output: every task renders its part of the videos.

Takes the flags of `guava-aug run` besides its own; after the word track, those of `guava-aug track`. A task that is
preempted, or reaches its time limit, finishes or drops the work in flight and is queued again; what is finished is
never made twice.
"""

EXAMPLES = """\
examples:
  guava-aug slurm tracked augmented --array 64 --time 8:00:00 > job.sbatch
  guava-aug slurm track videos/ --tracked_root tracked --array 64 > track.sbatch
  sbatch job.sbatch
  sbatch --array=3,7 job.sbatch      # some tasks once more
  guava-aug status augmented         # progress
  guava-aug merge augmented          # when all is done
"""

SPARE = 30  # seconds between the end of the grace time and SLURM's limit, for removing files and the last lines
TIME = re.compile(r"([0-9]+-)?[0-9]+(:[0-9]+){0,2}")  # of sbatch --time
TIMEOUT = 1800  # seconds; nobody watches a job at night
Text = Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")]
Count = Annotated[int, arg(metavar="N")]


@dataclass(frozen=True)
class JobFlags:
    """Flags of the job; the others are those of `guava-aug run`."""

    array: Count = 16
    """Tasks, each with its part of the videos (--shard)."""
    max_running: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Maximum number of tasks that run at the same time."""
    time: Annotated[str, arg(metavar="H:MM:SS")] = "4:00:00"
    """Time limit of one task in SLURM's notation: also 90 for minutes, or 1-12 for days and hours. It may be short: an
    unfinished task is queued again."""
    gres: Text = None
    """Generic resources per task; none: no GPU (give --device cpu too). Default: gpu:1, and none with --device cpu."""
    cpus: Count = 8
    """CPU cores per task, for reading and encoding while the GPU renders."""
    mem: Annotated[str, arg(metavar="SIZE")] = "32G"
    """Memory per task."""
    partition: Text = None
    """Partition."""
    account: Text = None
    """Account."""
    qos: Text = None
    """Quality of service."""
    constraint: Text = None
    """Required features of the nodes."""
    job_name: Annotated[str, arg(metavar="NAME")] = "guava-aug"
    """Name of the job."""
    signal_before: Annotated[int, arg(metavar="SECONDS")] = 120
    """Time before the limit at which a task starts to shut down."""
    max_requeues: Count = 100
    """Maximum number of times a task is queued again."""
    logs: MaybePath = None
    """Folder of the tasks' logs. Default: OUTPUT_ROOT/.guava-aug/slurm."""
    setup: Text = None
    """Shell command before the run, such as "module load ffmpeg"."""
    program: Text = None
    """Command that starts guava-aug on the nodes. Default: this Python with -m guava_aug."""


@dataclass(frozen=True)
class SlurmFlags:
    """All flags."""

    job: JobFlags
    run: Annotated[RunFlags, arg(name="")]


@dataclass(frozen=True)
class SlurmTrackFlags:
    """All flags of the tracking of videos."""

    job: JobFlags
    track: Annotated[TrackFlags, arg(name="")]  # type: ignore[valid-type]


def main(argv: Sequence[str]) -> int:
    """Return 0 when the script is written."""
    if argv[:1] == ["track"]:
        return _of_tracking(argv[1:])
    prog = "guava-aug slurm"
    argv = expand(SlurmFlags, argv, prog)
    flags = parse(SlurmFlags, argv, prog, DESCRIPTION, EXAMPLES, POSITIONALS)
    run, job = flags.run, flags.job
    if run.is_given("shard") or run.is_given("part_id"):
        raise UsageError("--shard and --part_id are given by the job script; leave them out (see --array)")
    job = with_resources(job, run["device"])
    check_job(job)
    check_run(run)
    logs = make_logs(job, run["output_root"])
    words = run_words(argv)
    for flag, value in (("grace", job.signal_before - SPARE), ("timeout", TIMEOUT)):
        if not run.is_given(flag):
            words += [f"--{flag}", str(value)]
    if asks_for_gpu(job.gres) and not is_cpu(run["device"]) and not run["require_gpu"]:
        words.append("--require_gpu")
    print(job_script(job, ["run", *words], logs, Path.cwd()), end="")
    return OK


def _of_tracking(argv: Sequence[str]) -> int:
    words, videos = split_words(SlurmTrackFlags, argv)
    flags: Any = parse(SlurmTrackFlags, words, "guava-aug slurm track", DESCRIPTION, EXAMPLES, VIDEOS)
    job, track = flags.job, flags.track
    if not videos:
        raise UsageError("no video is named; give files, or folders of videos or pictures")
    if {"shard", "part_id"} & set(track.given):
        raise UsageError("--shard and --part_id are given by the job script; leave them out (see --array)")
    config = track.config(videos)
    job = with_resources(job, config.device)
    check_job(job)
    for word in videos:
        if not os.path.lexists(word):
            print(f"guava-aug: warning: {printable(word)} is not on this machine; the job needs it on its nodes",
                  file=sys.stderr)  # fmt: skip
    logs = make_logs(job, config.tracked_root)
    words = [*videos, *run_words(words)]
    for flag, value in (("grace", job.signal_before - SPARE), ("timeout", TIMEOUT)):
        if flag not in track.given:
            words += [f"--{flag}", str(value)]
    if asks_for_gpu(job.gres) and not is_cpu(config.device) and not config.require_gpu:
        words.append("--require_gpu")
    print(job_script(job, ["track", *words], logs, Path.cwd()), end="")
    return OK


def check_job(job: JobFlags) -> None:
    """Raise UsageError for flags of a job that SLURM, or its script, cannot work with."""
    if job.array < 1 or job.cpus < 1 or job.max_requeues < 0 or (job.max_running or 1) < 1:
        raise UsageError("--array, --cpus and --max_running are counts of 1 or more, --max_requeues of 0 or more")
    if job.signal_before <= SPARE:
        raise UsageError(f"--signal_before is {job.signal_before}; expected more than {SPARE} seconds")
    if not TIME.fullmatch(job.time):
        raise UsageError(
            f"--time is {job.time!r}; expected minutes, minutes:seconds, hours:minutes:seconds, days-hours, "
            "days-hours:minutes or days-hours:minutes:seconds"
        )


def make_logs(job: JobFlags, root: Path) -> Path:
    """Return the folder of the tasks' logs, below the root of the results unless --logs names another; it is made.

    Raises:
        OutputError: it cannot be made.
    """
    logs = (job.logs or root / RUN_FOLDER / "slurm").absolute()
    try:
        logs.mkdir(parents=True, exist_ok=True)  # SLURM does not make it, and a job without it fails without a word
    except OSError as error:
        raise OutputError(f"--logs {logs}: cannot be made ({error.strerror or error})") from error
    return logs


def check_run(run: RunFlags) -> None:
    """Check the flags as `run` does; warn of files missing here, which the nodes may have.

    Raises:
        UsageError: as `run`.
    """
    config = run.config("batch")
    from guava_aug.batch.validate import check_flags
    from guava_aug.views import plan_views

    plan_views("any", config.difficulties, config.base_seed, config.views_per_difficulty)
    missing = []
    if not os.path.isdir(config.tracked_root):  # of a folder of somebody else, Path would raise
        missing.append(f"--tracked_root {config.tracked_root} is not a folder on this machine")
    elif config.videos is not None:
        missing += _strangers(config.tracked_root, config.videos)
    try:
        check_flags(config)
    except (AssetError, InputError) as error:
        missing.append(f"on this machine {error}")
    for said in missing:
        print(f"guava-aug: warning: {printable(said)}; the job needs it on its nodes", file=sys.stderr)


def is_cpu(device: str) -> bool:
    """Return whether --device is the processor."""
    return device.strip().lower() == "cpu"


def with_resources(job: JobFlags, device: str) -> JobFlags:
    """Return the flags with the resources that a task on `device` needs, unless they were given."""
    return job if job.gres is not None else replace(job, gres="none" if is_cpu(device) else "gpu:1")


def asks_for_gpu(gres: str | None) -> bool:
    """Return whether generic resources such as `gpu:a100:1,license:2` have a GPU, or a part of one, among them."""
    names = [entry.split(":")[0].strip().lower() for entry in (gres or "").split(",")]
    return any(name in ("gpu", "shard", "mps") for name in names)


def _strangers(root: Path, names: Sequence[str]) -> list[str]:
    """Return warnings about names that are no tracked videos on this machine."""
    from guava_aug.batch.plan import unique_names
    from guava_aug.runtime.text import pluralize
    from guava_aug.tracked import scan_videos
    from guava_aug.tracked.layout import named

    names = unique_names(names)
    try:
        there = set(scan_videos(root).tracked)
    except InputError as error:
        return [f"on this machine {error}"]
    absent = [name for name in names if name not in there]
    if not absent:
        return []
    what = f"{len(absent)} of {pluralize(len(names), 'name')}"
    return [f"{what} are no tracked videos below --tracked_root {root} on this machine: {named(absent)}"]


def run_words(argv: Sequence[str]) -> list[str]:
    """Return the words of the command line that are for `guava-aug run`."""
    own = {field.name for field in dataclasses.fields(JobFlags)}
    words, skip = list[str](), False
    for word in argv:
        if skip:
            skip = False
            continue
        flag = re.match(r"--([\w-]+)(=?)", word)
        if flag and flag[1].replace("-", "_") in own:
            skip = not flag[2]
        else:
            words.append(word)
    return words


def job_script(job: JobFlags, command: Sequence[str], logs: Path, folder: Path) -> str:
    """Return the text of the script.

    Args:
        job: Flags of the job.
        command: Command of guava-aug for every task, with its flags.
        logs: folder of the tasks' output; it must exist when the job starts.
        folder: working directory, which relative paths are below.
    """
    last, limit = job.array - 1, f"%{job.max_running}" if job.max_running else ""
    options = {
        "job-name": job.job_name, "array": f"0-{last}{limit}", "time": job.time, "partition": job.partition,
        "account": job.account, "qos": job.qos, "constraint": job.constraint,
        "gres": None if job.gres in (None, "none") else job.gres, "nodes": "1", "ntasks": "1",
        "cpus-per-task": str(job.cpus), "mem": job.mem, "signal": f"B:USR1@{job.signal_before}",
        "open-mode": "append", "output": f"{logs}/%x-%A_%a.log", "chdir": str(folder),
    }  # fmt: skip
    for name, value in options.items():
        if value is not None and ('"' in value or not value.isprintable()):
            what = f"--{name.replace('-', '_')} is {value!r}"
            raise UsageError(f"{what}; a line break, another control character or a quote cannot stand there")
    lines = [f"#SBATCH --{name}={_quoted(value)}" for name, value in options.items() if value is not None]
    program = job.program or f"{shlex.quote(sys.executable)} -m guava_aug"
    return _SCRIPT.format(
        options="\n".join(lines),
        setup=f"{job.setup}\n" if job.setup else "",
        run=" ".join([program, *map(_word, command)]),
        shard=f'--shard "$SLURM_ARRAY_TASK_ID/{job.array}"',
        preempted=PREEMPTED,
        requeues=job.max_requeues,
        cpus=job.cpus,
        threads=f"export OMP_NUM_THREADS={job.cpus} NUMBA_NUM_THREADS={job.cpus}",
    )


def _word(text: str) -> str:
    r"""Return `text` as one word of bash; characters that are not printable become escaped bytes, $'\x1b'."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    """Return one character as it stands within $'...'."""
    if character.isprintable() and character not in "'\\":
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))


def _quoted(value: str) -> str:
    return f'"{value}"' if re.search(r"[^\w./%:@=,+-]", value) else value


_SCRIPT = """\
#!/bin/bash
# Made by `guava-aug slurm`. Send it with: sbatch job.sbatch; some tasks once more with: sbatch --array=3,7 job.sbatch
{options}
#SBATCH --requeue

# SLURM signals this script before the time limit (USR1), and the step that srun starts when it preempts (TERM). The
# program then finishes or drops what is in flight and ends with {preempted}, and the task is queued again.
asked=0
again=1
# shellcheck disable=SC2317 # the trap calls it
ask() {{
    asked=1
    again=1
    kill -s USR1 "$program" 2>/dev/null
}}
program=
trap ask USR1 TERM

{threads}
{setup}srun --ntasks=1 --cpus-per-task={cpus} {run} \\
    {shard} &
program=$!
while [ "$again" -eq 1 ]; do # a signal interrupts `wait`
    again=0
    wait "$program"
    code=$?
done

# Above 128: it was asked before it could listen. A job that was cancelled by hand is not RUNNING and stays cancelled.
if [ "$code" -eq {preempted} ] || [ "$code" -eq 143 ] || {{ [ "$asked" -eq 1 ] && [ "$code" -gt 128 ]; }}; then
    task="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" # SLURM_JOB_ID of one of the tasks is that of the whole array
    state=$(squeue --noheader --jobs "$task" --format %T)
    if [ "$state" != RUNNING ]; then
        echo "task $SLURM_ARRAY_TASK_ID was asked to end; SLURM says it is $state"
    elif [ "${{SLURM_RESTART_COUNT:-0}}" -ge {requeues} ]; then
        echo "task $SLURM_ARRAY_TASK_ID is not queued again (--max_requeues {requeues}): the time limit is too short"
    else
        echo "task $SLURM_ARRAY_TASK_ID was asked to end; it is queued again"
        scontrol requeue "$task" && sleep 60 # SLURM ends this script meanwhile
    fi
fi
exit "$code"
"""
