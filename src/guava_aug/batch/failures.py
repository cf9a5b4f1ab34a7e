"""Failures as records, and those that every other video would meet too."""

from __future__ import annotations

import errno

from guava_aug.batch.jobs import Job, Part
from guava_aug.batch.results import ViewRecord
from guava_aug.errors import DeviceError, DeviceLostError, DiskFullError, is_permanent, location
from guava_aug.runtime.text import explain


def failed_record(job: Job, part: Part, error: Exception, seconds: float = 0.0) -> ViewRecord:
    """Return the record of a part of a job that failed."""
    stage, frame = location(error)
    return ViewRecord(
        job.name, part.label, "failed", part.record(), error=explain(error), stage=stage, frame=frame,
        permanent=is_permanent(error), attempt=job.attempts.get(part.label), seconds=seconds,
    )  # fmt: skip


def raise_if_fatal(error: Exception) -> None:
    """Raise DiskFullError or DeviceError when the failure of one view means that every other one will fail."""
    if isinstance(error, DeviceError):
        raise error
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DiskFullError):
            raise cause
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):  # of a picture, of a folder
            raise DiskFullError(explain(error)) from error
        if _is_lost_gpu(cause):  # also one that an encoder's thread met while it waited for its frames
            raise DeviceLostError(
                f"the GPU failed ({str(cause).splitlines()[0]}) and this process cannot use it any more; run it again "
                "to go on; if it occurs again, see the driver's log (dmesg, Xid) and try another GPU"
            ) from error
        cause = cause.__cause__


def _is_lost_gpu(error: BaseException) -> bool:
    """Return whether torch or Triton reports that the GPU's context is broken; lack of memory does not break it."""
    text = str(error)
    told = "CUDA error" in text or "Triton Error [CUDA]" in text
    return isinstance(error, RuntimeError) and told and "out of memory" not in text
