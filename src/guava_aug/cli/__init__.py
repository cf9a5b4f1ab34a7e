"""The command `guava-aug`: runs the subcommand, and turns errors into a message and an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from guava_aug.cli.commands import COMMANDS
from guava_aug.cli.exit_codes import BUG, CANCELLED, FAILED_TO_START, OK, explain_codes
from guava_aug.cli.streams import guarded_streams
from guava_aug.errors import GuavaAugError
from guava_aug.runtime.cpus import same_threads, shorten_spin
from guava_aug.runtime.dependencies import lacking
from guava_aug.runtime.shutdown import INTERRUPTED, ShutdownRequested
from guava_aug.runtime.version import __version__

HIDDEN = {"one-view": "one_view", "worker": "worker"}  # the child processes of --mode subprocess, of --gpus
SPELLINGS = {"personalise": "personalize"}  # of commands

EXAMPLES = """\
examples:
  guava-aug demo
  guava-aug check tracked/
  guava-aug run tracked augmented
  guava-aug run tracked augmented --video_list clip_a clip_b --device cpu
"""


def overview() -> str:
    """Return the text of `guava-aug --help`."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    return (
        "usage: guava-aug [-h] [--version] COMMAND ...\n\n"
        "Re-render tracked upper-body videos from new cameras with GUAVA avatars.\n\n"
        f"commands:\n{rows}\n\n"
        "options:\n  -h, --help  show this help; `guava-aug help COMMAND` shows that of a command\n"
        "  --version   show the version, as `guava-aug version`\n\n"
        f"{EXAMPLES}\n{explain_codes()}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of `guava-aug` with these arguments (default: those of the process)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["help"] and len(args) > 1:
        args = [args[1], "--help"]
    if args[:1] == ["--tyro-print-completion"]:  # as of any program made with tyro
        args = ["completion", *args[1:]]
    if not args or args[0] in ("-h", "--help", "help"):
        with guarded_streams():
            print(overview(), end="", file=sys.stdout if args else sys.stderr)
        return OK if args else FAILED_TO_START
    if args[0] in ("-V", "--version", "version"):
        print(f"guava-aug {__version__}")
        return OK
    command, rest = SPELLINGS.get(args[0], args[0]), args[1:]
    module = HIDDEN.get(command) or COMMANDS.get(command, ("", ""))[0]
    if not module:
        return complain(f"there is no command {command!r}; expected {', '.join(COMMANDS)}; see guava-aug --help")
    return guarded(module, rest)


def script_main(argv: Sequence[str]) -> int:
    """Return the exit code of scripts/run_guava_augmentation.py with these arguments."""
    return guarded("run", list(argv), prog="run_guava_augmentation.py", script=True)


def guarded(module: str, args: list[str], **options: Any) -> int:
    """Run `main(args)` of a module in this package; known errors become one message, all others a traceback."""
    shorten_spin()
    if module not in HIDDEN.values() and (lacks := lacking()):
        if module != "doctor":
            said = "; ".join(f"{lack} ({lack.advice})" for lack in lacks)
            return complain(f"{said}; `guava-aug doctor` looks at everything")
        if any(lack.name in ("tyro", "rich") for lack in lacks):  # no flag can be read, and no colour written
            from guava_aug.apps.doctor import examine_without_flags

            return FAILED_TO_START if examine_without_flags() else OK
    same_threads()
    with guarded_streams():
        try:
            return _ended(module, args, options)
        except Exception:  # here, while the streams are guarded: its message may hold text of others
            traceback.print_exc()
            return BUG


def _ended(module: str, args: list[str], options: dict[str, Any]) -> int:
    """Return the exit code of `main(args)` of a module. Raises unexpected errors."""
    try:
        return int(import_module(f".{module}", __name__).main(args, **options))
    except SystemExit as stop:  # of the command line's parser: after --help, or after its own message
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else FAILED_TO_START
    except GuavaAugError as error:
        return complain(str(error))
    except ShutdownRequested as stop:
        word = "interrupted" if stop.code == INTERRUPTED else "stopped"
        print(f"guava-aug: {word}; unfinished files are removed; run it again to continue", file=sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        print("guava-aug: interrupted; unfinished files are removed; run it again to continue", file=sys.stderr)
        return CANCELLED


def complain(message: str) -> int:
    """Print why nothing was started; return the exit code for that."""
    print(f"guava-aug: error: {message}", file=sys.stderr)
    return FAILED_TO_START
