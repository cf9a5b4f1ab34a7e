"""`--engine ray`: a worker per GPU, or per some cores, of a Ray cluster; the model is loaded once in each."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guava_aug.avatar.config import EMBEDDED
from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.base import FramesDone
from guava_aug.batch.executors.work import WorkConfig
from guava_aug.batch.executors.worker import Worker
from guava_aug.batch.executors.worker_pool import STOP_SECONDS, Timeout, WorkerDied, WorkerPool, WorkerTimeout
from guava_aug.batch.options import options_of
from guava_aug.batch.validate import model_source
from guava_aug.errors import DeviceError, UsageError
from guava_aug.runtime.shutdown import Check, GracefulShutdown, ShutdownRequested
from guava_aug.runtime.text import one_line, pluralize

if TYPE_CHECKING:
    from guava_aug.batch.executors.worker import Message
    from guava_aug.batch.jobs import Job

log = logging.getLogger(__name__)

CPUS_PER_WORKER = 4  # without GPUs: more cores than that help one video little
WARN_SECONDS = 60.0  # seconds without a place in the cluster until the log says so


class RayWorkerPool(WorkerPool):
    """Members are Ray actors. How many is decided by the resources of the cluster when the run begins."""

    def __init__(self, config: WorkConfig, stop: Check = lambda: None) -> None:
        super().__init__(config, 1, self._start_actor)
        self._check_stop = stop
        self._options: dict[str, Any] = {}
        self._started_ray = False

    def check(self) -> None:
        """Check the flags as every pool does, and that Ray is installed."""
        super().check()
        _import_ray()

    def start(self, num_jobs: int) -> None:
        """Connect to the cluster, or start Ray here, and start the workers. Raises DeviceError, AssetError."""
        ray = _import_ray()
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            new = {} if self.config.ray_address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
            try:
                ray.init(self.config.ray_address, log_to_driver=False, logging_level="warning", **new)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = self.config.ray_address or "this machine"
                raise DeviceError(f"--engine ray: no Ray cluster at {where} ({error}); see `ray status`") from None
            self._started_ray = True
            if isinstance(self._check_stop, GracefulShutdown):
                self._check_stop.take_signals()  # Ray has set its own
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.capacity, resources = share_out(nodes, self.config)
        self._limit_workers(num_jobs)
        threads = str(max(1, int(resources["num_cpus"])))
        environment = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
        self._options = {
            **resources, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 3,
            "scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": environment},
        }  # fmt: skip
        what = f"{resources['num_gpus']:g} GPU and " if resources.get("num_gpus") else ""
        share = what + pluralize(int(threads), "core")
        log.info("Ray: %s; %s with %s each", pluralize(len(nodes), "node"), pluralize(self.capacity, "worker"), share)
        super().start(num_jobs)

    def stop(self) -> None:
        """End the workers, and Ray if this run started it or connected to it."""
        super().stop()
        if self._started_ray:
            self._started_ray = False
            _import_ray().shutdown()

    def describe(self) -> dict[str, Any]:
        """Return what every pool does, and the version of Ray."""
        return {**super().describe(), "ray": _import_ray().__version__}

    def _start_actor(self, number: int) -> RayWorkerHandle:
        return RayWorkerHandle(
            f"ray worker {number}", portable(self.config, self._options), self._options, self.timeout
        )


def share_out(nodes: Sequence[dict[str, float]], config: WorkConfig) -> tuple[int, dict[str, float]]:
    """Return how many workers a cluster with these nodes has room for, and what each of them gets.

    Raises:
        DeviceError: there is no room for any.
    """
    gpus, cpus = sum(int(n.get("GPU", 0)) for n in nodes), sum(int(n.get("CPU", 0)) for n in nodes)
    if gpus and not config.device.startswith("cpu"):
        per_gpu = config.workers or 1
        shares = [n["CPU"] / n["GPU"] / per_gpu for n in nodes if n.get("GPU", 0) >= 1]
        each = config.cpus_per_worker or max(1, int(min(shares)))
        return gpus * per_gpu, {"num_gpus": 1 / per_gpu, "num_cpus": each}
    if config.require_gpu:
        raise DeviceError("--require_gpu: the Ray cluster has no GPU; see `ray status`")
    largest = max((int(n.get("CPU", 0)) for n in nodes), default=0)
    each = config.cpus_per_worker or max(1, min(CPUS_PER_WORKER, largest))
    room = sum(int(n.get("CPU", 0)) // each for n in nodes)
    if room == 0:
        raise DeviceError(
            f"--engine ray: no node has {pluralize(each, 'core')} for a worker; the cluster has "
            f"{pluralize(cpus, 'core')} on {pluralize(len(nodes), 'node')} (see --cpus_per_worker)"
        )
    return min(room, config.workers or room), {"num_cpus": each}


def portable(config: WorkConfig, resources: dict[str, Any]) -> WorkConfig:
    """Return the configuration for another working directory, perhaps on another machine with the same file systems."""
    if isinstance(config, RunConfig):
        source = model_source(config)
        config = dataclasses.replace(config, model_path=Path(source if source == EMBEDDED else os.path.abspath(source)))
    paths = {
        declared.name: declared.from_plain(os.path.abspath(value))
        for declared in options_of(type(config))
        if declared.names_path(value := getattr(config, declared.name))
    }
    return dataclasses.replace(
        config, **paths,
        device="0" if resources.get("num_gpus") else "cpu", require_gpu=bool(resources.get("num_gpus")),
        engine="local", workers=None, timeout=None, ray_address=None, cpus_per_worker=None,
    )  # fmt: skip


class RayWorkerHandle:
    """One actor. See `WorkerHandle`."""

    def __init__(self, name: str, config: WorkConfig, options: dict[str, Any], timeout: Timeout) -> None:
        self._ray, self.name, self._timeout = _import_ray(), name, timeout
        self._actor = self._ray.remote(RayWorker).options(**options).remote(config)
        self._ended = False

    def ready(self) -> Iterator[Message]:
        """Yield its messages until its model is loaded; it may have to wait for resources of the cluster."""
        yield from self._messages(self._actor.start, (), None)

    def execute(self, job: Job) -> Iterator[Message]:
        """Yield its messages about one job."""
        yield from self._messages(self._actor.execute, (job,), self._timeout)

    def request_stop(self) -> None:
        """See `WorkerHandle`."""
        self._actor.request_stop.remote()

    def stop(self) -> None:
        """See `WorkerHandle`."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(self._ray.exceptions.RayError):  # it is gone, or hangs (GetTimeoutError)
            self._ray.get(self._actor.stop.remote(), timeout=STOP_SECONDS)
        self._ray.kill(self._actor)

    def _messages(self, method: Any, arguments: tuple[Any, ...], timeout: Timeout | None) -> Iterator[Message]:
        try:
            said = method.options(num_returns="streaming").remote(*arguments)
            waited = 0.0
            while True:
                limit, begun = WARN_SECONDS if timeout is None else timeout.seconds, time.monotonic()
                there, _ = self._ray.wait([said], timeout=limit, fetch_local=False)
                if there:
                    if timeout is not None:
                        timeout.seen(time.monotonic() - begun)
                    yield self._ray.get(next(said))
                    waited = 0.0
                elif timeout is not None:
                    self._ended = True
                    self._ray.kill(self._actor)
                    raise WorkerTimeout(f"nothing happened for {timeout}: it hangs")
                elif not arguments:
                    waited += WARN_SECONDS
                    log.warning("%s has waited %.0f s for a place in the Ray cluster", self.name, waited)
        except StopIteration:
            return
        except self._ray.exceptions.RayError as error:
            raise WorkerDied(one_line(error, 1000)) from None


class RayWorker:
    """What runs in the actor: the executor in a thread, and a queue of its messages."""

    def __init__(self, config: WorkConfig) -> None:
        from guava_aug.runtime.cpus import keep_freed_memory  # noqa: PLC0415 - runs in the actor

        keep_freed_memory()
        self._queue: queue.Queue[Message | None] = queue.Queue()
        self._stop_requested = self._stop_now = False
        self._idle = threading.Event()
        self._idle.set()
        self._worker = Worker(config, self._emit, self._check_stop)

    def start(self) -> Iterator[Message]:
        """Load the model."""
        yield from self._run(self._worker.start)

    def execute(self, job: Job) -> Iterator[Message]:
        """Make the views of one job."""
        yield from self._run(lambda: self._worker.execute(job))

    def request_stop(self) -> None:
        """Start no further group of views."""
        self._stop_requested = True

    def stop(self) -> None:
        """Stop after the next frames, and return when the unfinished files are removed."""
        self._stop_requested = self._stop_now = True
        self._idle.wait()

    def _run(self, work: Callable[[], None]) -> Iterator[Message]:
        self._idle.clear()
        thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        thread.start()
        while (message := self._queue.get()) is not None:
            yield message

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ShutdownRequested:
            pass
        finally:
            self._queue.put(None)
            self._idle.set()

    def _emit(self, message: Message) -> None:
        self._queue.put(message)
        if self._stop_now and isinstance(message, FramesDone):  # between two chunks; files are removed on the way out
            raise ShutdownRequested

    def _check_stop(self) -> None:
        if self._stop_requested:
            raise ShutdownRequested


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415 - optional
        import ray.exceptions  # noqa: PLC0415 - optional
    except ImportError:
        raise UsageError("--engine ray: Ray is not installed; pip install 'guava-aug[ray]'") from None
    return ray
