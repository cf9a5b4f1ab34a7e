"""The errors a user can meet. Each message says what, where, expected and found, and what to do next."""

from guava_aug.runtime.printable import printable


class GuavaAugError(Exception):
    """Base of every error this package raises on purpose.

    As text, what is not printable in its message is escaped: names, paths and reasons in it are of others.
    """

    has_lines = False  # True: the message has several lines, and what it says of others is printable already

    def __str__(self) -> str:
        return printable(super().__str__(), "\n" if self.has_lines else "")


class InputError(GuavaAugError):
    """A tracked video (or another input file of the user's) is missing, damaged or out of range."""


class AssetError(GuavaAugError):
    """A model file (checkpoint, config, body model, index file) is missing or does not fit."""


class DeviceError(GuavaAugError):
    """The asked-for device cannot be used."""


class DeviceLostError(DeviceError):
    """The device failed in the middle of the work; only a new process can use it again. Stops a run."""


class OutputError(GuavaAugError):
    """A result could not be written, or what was written did not read back."""


class DiskFullError(OutputError):
    """There is no space, or no quota, for a result: every other video would fail too. Stops a run."""


class UsageError(GuavaAugError):
    """The command line or a call asks for something that makes no sense; exit code 2."""
