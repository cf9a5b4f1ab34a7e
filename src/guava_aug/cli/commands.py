"""The commands of `guava-aug`."""

from __future__ import annotations

# name -> module below guava_aug.cli with `main(argv) -> exit code`, and what the overview says.
COMMANDS = {
    "run": ("run", "Render tracked videos again from new cameras."),
    "track": ("track", "Track a person in videos, so that run can render them."),
    "augment": ("augment", "Track videos and render them: track, then run."),
    "status": ("status", "Say how the work on an output folder stands, at any time."),
    "retry": ("retry", "Try the failed views of an output folder again."),
    "merge": ("merge", "Make one parameter log and one manifest of all parts."),
    "check": ("check", "Check tracked videos; print what is wrong and where."),
    "convert": ("convert", "Make a lean .safetensors file of an official checkpoint."),
    "demo": ("demo", "Augment the bundled clips and make a contact sheet."),
    "train": ("train", "Train a network on tracked videos or on synthetic people."),
    "estimate": ("estimate", "Say the hours, disk and memory of a run, from a measurement."),
    "doctor": ("doctor", "Check this machine, from its GPU to a clip end to end."),
    "slurm": ("slurm", "Write a job script for a SLURM array."),
    "bench": ("bench", "Measure what views cost on this machine, stage by stage."),
    "evaluate": ("evaluate", "Measure a model on held-out synthetic people."),
    "completion": ("completion", "Write a completion script for bash, zsh or tcsh."),
}
