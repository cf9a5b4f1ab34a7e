"""`guava-aug slurm`: the script it writes, and its life in a real SLURM with preemption (tests/cluster/slurm.sh)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.conftest import HERE, ended, fake_environment, start, wait_until
from fakes import write_clip
from guava_aug.batch.sharding import Shard
from guava_aug.cli import main
from guava_aug.cli.slurm import run_words
from run_outputs import logged, tree


def written(capsys: pytest.CaptureFixture[str], out: Path, *more: str, code: int = 0) -> str:
    """What `guava-aug slurm` writes."""
    assert main(["slurm", "--tracked_root", "all tracked", "--output_root", str(out), *more]) == code
    said = capsys.readouterr()
    return said.out if code == 0 else said.err


def test_the_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = written(
        capsys, tmp_path, "--array", "64", "--max_running=8", "--time", "8:00:00", "--partition", "gpu",
        "--video_list", "a", "b c", "--mem", "16G", "--setup", "module load x", "--difficulties", "easy", "hard",
    )  # fmt: skip
    for line in (
        "#SBATCH --array=0-63%8", "#SBATCH --time=8:00:00", "#SBATCH --partition=gpu", "#SBATCH --gres=gpu:1",
        "#SBATCH --mem=16G", "#SBATCH --cpus-per-task=8", "#SBATCH --requeue", "#SBATCH --signal=B:USR1@120",
        f"#SBATCH --output={tmp_path}/.guava-aug/slurm/%x-%A_%a.log", "module load x",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "run --tracked_root 'all tracked' " in text
    assert "--video_list a 'b c' --difficulties easy hard --grace 90 --timeout 1800 --require_gpu" in text
    assert '--shard "$SLURM_ARRAY_TASK_ID/64" &' in text
    assert (tmp_path / ".guava-aug" / "slurm").is_dir()  # without it SLURM would fail the job without a word
    file = tmp_path / "job.sbatch"
    file.write_text(text)
    subprocess.run(["bash", "-n", str(file)], check=True)
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--shard", "0/2"], "--shard"),
        (["--part_id", "1"], "--part_id"),
        (["--array", "0"], "--array"),
        (["--signal_before", "10"], "--signal_before"),
        (["--crf", "99"], "--crf"),
        (["--time", "abc"], "--time is 'abc'; expected minutes"),
        (["--time", "1-2-3"], "--time"),
        (["--time", "1:2:3:4"], "--time"),
        (["--difficulties", "esy"], "did you mean 'easy'"),
        (["--views_per_difficulty", "0"], "--views_per_difficulty"),
        (["--preset", "quick"], "--preset"),
        (["--background", "#nocolour"], "--background"),
        (["--partition", "a\nb"], "--partition"),
    ],
)
def test_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], match: str):
    assert match in written(capsys, tmp_path, *more, code=2)


@pytest.mark.parametrize(
    ("more", "asked"),
    [
        ([], True),
        (["--gres", "gpu:a100:2"], True),
        (["--gres=license:1,gpu"], True),
        (["--gres", "shard:1"], True),
        (["--require-gpu"], False),  # given already
        (["--gres", "none"], False),
        (["--gres", "license:1"], False),
        (["--device", "cpu"], False),
    ],
)
def test_a_job_with_a_gpu_does_not_go_on_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], asked: bool
):
    assert ("--require_gpu" in written(capsys, tmp_path, *more)) == asked


@pytest.mark.parametrize(
    ("more", "asked"),
    [([], "gpu:1"), (["--device", "cpu"], None), (["--gres", "none"], None), (["--device", "cpu", "--gres", "x"], "x")],
)
def test_a_gpu_is_asked_for_unless_the_processor_does_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], asked: str | None
):
    tracked = ["slurm", "track", str(tmp_path), "--tracked_root", str(tmp_path / "tracked")]
    assert main([*tracked, *more]) == 0
    for text in (capsys.readouterr().out, written(capsys, tmp_path, *more)):
        lines = [line for line in text.splitlines() if line.startswith("#SBATCH --gres")]
        assert lines == ([] if asked is None else [f"#SBATCH --gres={asked}"])


@pytest.mark.parametrize("limit", ["90", "90:30", "8:00:00", "1-12", "1-12:30", "1-12:30:15"])
def test_every_form_of_a_time_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str], limit: str):
    assert f"#SBATCH --time={limit}" in written(capsys, tmp_path, "--time", limit).splitlines()


def test_a_model_that_only_the_nodes_may_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--tracked_root", str(tmp_path), "--output_root", str(tmp_path / "out"), "--model_path", "/nowhere"]
    assert main(["slurm", *flags]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("#!") and "on this machine --model_path /nowhere does not exist" in said.err


def test_a_tracked_root_that_only_the_nodes_may_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for root, word in ((tmp_path / "nowhere", "nowhere is not a folder on this machine"), (tmp_path, "")):
        assert main(["slurm", "--tracked_root", str(root), "--output_root", str(tmp_path / "out")]) == 0
        said = capsys.readouterr()
        assert said.out.startswith("#!")
        assert (word in said.err) if word else not said.err


def test_only_the_flags_of_the_run_are_left():
    argv = ["--time=1:00", "--time_map", "t", "--array", "4", "--video_list", "a", "--max-running", "2", "--grace", "5"]
    assert run_words(argv) == ["--time_map", "t", "--video_list", "a", "--grace", "5"]


def run(*words: str, **options) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory):
    """A SLURM of one node with two cores."""
    missing = [
        p for p in ("munged", "slurmctld", "slurmd") if not shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin")
    ]
    if missing or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's slurm-wlm and munge (missing: {', '.join(missing) or 'root'})")
    folder = tmp_path_factory.mktemp("slurm")
    run("bash", str(HERE / "slurm.sh"), "start", str(folder), "2", stdin=subprocess.DEVNULL)
    before, os.environ["SLURM_CONF"] = os.environ.get("SLURM_CONF"), str(folder / "slurm.conf")
    yield folder
    run("scancel", "--user", "root")
    run("bash", str(HERE / "slurm.sh"), "stop", str(folder))
    os.environ.pop("SLURM_CONF")
    if before is not None:
        os.environ["SLURM_CONF"] = before


def queue() -> dict[str, tuple[str, str]]:
    """{job or job_task: (state, reason)}"""
    lines = run("squeue", "--noheader", "--array", "--format=%i|%T|%r").splitlines()
    return {name: (state, reason) for name, state, reason in (line.split("|") for line in lines)}


def send(tracked: Path, out: Path, folder: Path, seconds: float) -> str:
    """Sends an array of four; gives its job id."""
    script = run(
        sys.executable, "-m", "guava_aug", "slurm", "--tracked_root", str(tracked), "--output_root", str(out),
        "--array", "4", "--cpus", "1", "--mem", "100M", "--gres", "none", "--partition", "low", "--device", "cpu",
        "--frames_per_chunk", "1",
    )  # fmt: skip
    (folder / "job.sbatch").write_text(script)
    return run("sbatch", "--parsable", str(folder / "job.sbatch"), env=fake_environment(seconds=seconds)).strip()


@pytest.mark.cluster
def test_an_array_with_preempted_tasks(slurm: Path, tmp_path: Path):
    out, whole, tracked = tmp_path / "out", tmp_path / "whole", tmp_path / "tracked"
    names = [next(n for i in range(99) if Shard(part, 4).has(n := f"{k}{i}")) for part in range(4) for k in "ab"]
    for name in names:
        write_clip(tracked, name, frames=3)
    code, said = ended(start("run", "--tracked_root", str(tracked), "--output_root", str(whole), "--device", "cpu"))
    assert code == 0, said
    job = send(tracked, out, tmp_path, seconds=0.5)
    running = lambda *tasks: all(queue().get(f"{job}_{task}", ("",))[0] == "RUNNING" for task in tasks)
    wait_until(lambda: running(2, 3) and len(list(out.rglob("*.mp4.tmp-*"))) == 6)  # two tasks of one core each
    run("sbatch", "--parsable", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=sleep 3")
    again = wait_until(lambda: (a := sorted(n for n, (_, why) in queue().items() if why == "BeginTime"))[1:] and a)
    assert again == [f"{job}_2", f"{job}_3"]  # the last one has the number of the whole array
    for task in again:
        run("scontrol", "update", f"jobid={task}", "StartTime=now")  # SLURM waits two minutes
    wait_until(lambda: not queue(), seconds=150)
    for task, times in zip(range(4), (1, 1, 2, 2), strict=True):
        log = (out / ".guava-aug" / "slurm" / f"guava-aug-{job}_{task}.log").read_text()
        assert log.count("it is queued again") == times - 1
        assert log.count(f"part {task}/4") == times
    assert tree(out) == tree(whole)
    parts = {p.name for p in out.glob("augmentation_params_part_*.json")}
    assert parts == {f"augmentation_params_part_{i}.json" for i in range(4)}
    assert main(["merge", str(out)]) == 0
    entries = logged(out)
    assert set(entries) == set(names)
    assert {e["status"] for views in entries.values() for e in views.values()} == {"success", "skipped"}  # once more
    assert main(["status", str(out)]) == 0


@pytest.mark.cluster
def test_a_cancelled_array_stays_cancelled(slurm: Path, tracked: Path, tmp_path: Path):
    out = tmp_path / "out"
    job = send(tracked, out, tmp_path, seconds=3)
    wait_until(lambda: list(out.rglob("*.mp4.tmp-*")))
    run("scancel", job)
    wait_until(lambda: not queue())
    time.sleep(3)
    assert not queue()
    assert not list(out.rglob("*.mp4.tmp-*"))
