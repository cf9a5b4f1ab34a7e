"""`python -m guava_aug` is `guava-aug`."""

from guava_aug.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
