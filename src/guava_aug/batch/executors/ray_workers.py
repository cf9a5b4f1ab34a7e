"""`--engine ray`: a worker per GPU, or per some cores, of a Ray cluster; the model is loaded once in each."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guava_aug.batch.config import RunConfig
from guava_aug.batch.executors.in_process import model_source
from guava_aug.batch.executors.worker import Worker
from guava_aug.batch.executors.worker_pool import Patience, WorkerDied, WorkerPool, WorkerTimeout
from guava_aug.errors import DeviceError, UsageError
from guava_aug.runtime.progress import Progress
from guava_aug.runtime.shutdown import Check, GracefulShutdown, ShutdownRequested
from guava_aug.runtime.text import pluralize
from guava_aug.runtime.timing import StageTimer

if TYPE_CHECKING:
    from guava_aug.batch.executors.worker import Event

log = logging.getLogger(__name__)

CPUS_PER_WORKER = 4  # without GPUs: more cores than that help one video little
ENDING = 8.0  # seconds a worker has to remove its unfinished files
SAY_WAITING = 60.0  # seconds without a place in the cluster until the log says so


class RayWorkerPool(WorkerPool):
    """Members are Ray actors. How many is decided by the resources of the cluster when the run begins."""

    def __init__(self, config: RunConfig, stages: StageTimer, progress: Progress, stop: Check = lambda: None) -> None:
        super().__init__(config, stages, progress, 1, self._start)
        self._stop = stop
        self._options: dict[str, Any] = {}
        self._started_ray = False
        self._videos: int | None = None

    def at_most(self, videos: int) -> None:
        """As of every crew; how many workers there could be is known in `prepare`."""
        self._videos = videos

    def check(self) -> None:
        """As of every engine; also that Ray is installed."""
        super().check()
        _import_ray()

    def prepare(self) -> None:
        """Connects to the cluster, or starts Ray here, and starts the workers. Raises DeviceError, AssetError."""
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
            if isinstance(self._stop, GracefulShutdown):
                self._stop.take_signals()  # Ray has set its own
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.parallel, resources = share_out(nodes, self.config)
        if self._videos is not None:
            super().at_most(self._videos)
        threads = str(max(1, int(resources["num_cpus"])))
        environment = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
        self._options = {
            **resources, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 3,
            "scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": environment},
        }  # fmt: skip
        what = f"{resources['num_gpus']:g} GPU and " if resources.get("num_gpus") else ""
        share = what + pluralize(int(threads), "core")
        log.info("Ray: %s; %s with %s each", pluralize(len(nodes), "node"), pluralize(self.parallel, "worker"), share)
        super().prepare()

    def close(self) -> None:
        """Ends the workers, and Ray if this run started it or connected to it."""
        super().close()
        if self._started_ray:
            self._started_ray = False
            _import_ray().shutdown()

    def describe(self) -> dict[str, Any]:
        """As of every crew, and the version of Ray."""
        return {**super().describe(), "ray": _import_ray().__version__}

    def _start(self, number: int) -> RayWorkerHandle:
        return RayWorkerHandle(
            f"ray worker {number}", portable(self.config, self._options), self._options, self.patience
        )


def share_out(nodes: Sequence[dict[str, float]], config: RunConfig) -> tuple[int, dict[str, float]]:
    """How many workers a cluster with these nodes has room for, and what each of them gets.

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


def portable(config: RunConfig, resources: dict[str, Any]) -> RunConfig:
    """The configuration for another working directory, perhaps on another machine with the same file systems."""
    from guava_aug.avatar.model import EMBEDDED

    source = model_source(config)
    model = Path(source if source == EMBEDDED else os.path.abspath(source))
    picture = os.path.isfile(config.background)
    paths = {
        name: value.absolute()
        for name in ("tracked_root", "output_root", "guava_root", "time_map")
        if (value := getattr(config, name)) is not None
    }
    return dataclasses.replace(
        config, **paths, model_path=model,
        background=os.path.abspath(config.background) if picture else config.background,
        device="0" if resources.get("num_gpus") else "cpu", require_gpu=bool(resources.get("num_gpus")),
        engine="local", workers=None, timeout=None, ray_address=None, cpus_per_worker=None,
    )  # fmt: skip


class RayWorkerHandle:
    """One actor. See `crew.Member`."""

    def __init__(self, name: str, config: RunConfig, options: dict[str, Any], patience: Patience) -> None:
        self._ray, self.name, self._patience = _import_ray(), name, patience
        self._actor = self._ray.remote(RayWorker).options(**options).remote(config)
        self._ended = False

    def ready(self) -> Iterator[Event]:
        """What it says until its model is loaded; it may have to wait for a place in the cluster first."""
        yield from self._said(self._actor.prepare, (), None)

    def make(self, video: str, labels: Mapping[str, int]) -> Iterator[Event]:
        """What it says about one video."""
        yield from self._said(self._actor.make, (video, dict(labels)), self._patience)

    def ask_to_end(self) -> None:
        """See `crew.Member`."""
        self._actor.ask_to_end.remote()

    def end(self) -> None:
        """See `crew.Member`."""
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(self._ray.exceptions.RayError):  # it is gone, or hangs (GetTimeoutError)
            self._ray.get(self._actor.end.remote(), timeout=ENDING)
        self._ray.kill(self._actor)

    def _said(self, method: Any, arguments: tuple[Any, ...], patience: Patience | None) -> Iterator[Event]:
        try:
            said = method.options(num_returns="streaming").remote(*arguments)
            waited = 0.0
            while True:
                limit, begun = SAY_WAITING if patience is None else patience.seconds, time.monotonic()
                there, _ = self._ray.wait([said], timeout=limit, fetch_local=False)
                if there:
                    if patience is not None:
                        patience.seen(time.monotonic() - begun)
                    yield self._ray.get(next(said))
                    waited = 0.0
                elif patience is not None:
                    self._ended = True
                    self._ray.kill(self._actor)
                    raise WorkerTimeout(f"nothing happened for {patience}: it hangs")
                elif not arguments:
                    waited += SAY_WAITING
                    log.warning("%s has waited %.0f s for a place in the Ray cluster", self.name, waited)
        except StopIteration:
            return
        except self._ray.exceptions.RayError as error:
            raise WorkerDied(" ".join(str(error).split())[:1000]) from None


class RayWorker:
    """What runs in the actor: the engine in a thread, and a queue of what it says."""

    def __init__(self, config: RunConfig) -> None:
        from guava_aug.runtime.allocator import keep_freed_memory

        keep_freed_memory()
        self._said: queue.Queue[Event | None] = queue.Queue()
        self._asked = self._now = False
        self._idle = threading.Event()
        self._idle.set()
        self._worker = Worker(config, self._say, self._stop)

    def prepare(self) -> Iterator[Event]:
        """Loads the model."""
        yield from self._run(self._worker.prepare)

    def make(self, name: str, labels: Mapping[str, int]) -> Iterator[Event]:
        """Makes views of one video."""
        yield from self._run(lambda: self._worker.make(name, labels))

    def ask_to_end(self) -> None:
        """No group of views begins any more."""
        self._asked = True

    def end(self) -> None:
        """Stops after the next frames, and returns when the unfinished files are removed."""
        self._asked = self._now = True
        self._idle.wait()

    def _run(self, work: Any) -> Iterator[Event]:
        self._idle.clear()
        thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        thread.start()
        while (event := self._said.get()) is not None:
            yield event

    def _work(self, work: Any) -> None:
        try:
            work()
        except ShutdownRequested:
            pass
        finally:
            self._said.put(None)
            self._idle.set()

    def _say(self, event: Event) -> None:
        self._said.put(event)
        if self._now and event[0] == "frames":  # in the thread of the engine; its files are removed on the way out
            raise ShutdownRequested

    def _stop(self) -> None:
        if self._asked:
            raise ShutdownRequested


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UsageError("--engine ray: Ray is not installed; pip install 'guava-aug[ray]'") from None
    return ray
