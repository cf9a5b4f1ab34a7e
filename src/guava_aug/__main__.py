"""Run the command line: `python -m guava_aug` is the same as `guava-aug`."""

from guava_aug.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
