"""Which failures of one view stop the whole run."""

from __future__ import annotations

import pytest

from guava_aug.batch.failures import raise_if_fatal
from guava_aug.errors import DeviceError, DeviceLostError, DiskFullError, OutputError


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DeviceError("this rasteriser cannot run on this device"), DeviceError),
        (caused(OutputError("a picture"), OSError(28, "No space left on device")), DiskFullError),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), DeviceLostError),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), DeviceLostError),
        (
            caused(OutputError("writing stopped"), RuntimeError("CUDA error: unspecified launch failure")),
            DeviceLostError,
        ),
    ],
)
def test_what_stops_the_run(error: Exception, kind: type[Exception]):
    with pytest.raises(kind) as caught:
        raise_if_fatal(error)
    assert caught.type is kind


@pytest.mark.parametrize(
    "error",
    [
        OutputError("every frame is black"),
        caused(OutputError("writing stopped"), OSError(5, "Input/output error")),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("no such luck"),
    ],
)
def test_what_is_one_video_s_own_trouble(error: Exception):
    raise_if_fatal(error)
