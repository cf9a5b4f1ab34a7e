"""The commands of `guava-aug`."""

from __future__ import annotations

# name -> module below guava_aug.cli with `main(argv) -> exit code`, and what the overview says.
COMMANDS = {
    "run": ("run", "Render tracked videos again from new cameras."),
    "track": ("track", "Track a person in videos, so that run can render them."),
    "import": ("import_video", "Make a tracked video of SMPL-X parameters of other tools."),
    "augment": ("augment", "Track videos and render them: track, then run."),
    "personalize": ("personalize", "Fit avatars to the frames of their own videos."),
    "status": ("status", "Show the progress of an output folder."),
    "retry": ("retry", "Try the failed views of an output folder again."),
    "merge": ("merge", "Merge the parameter logs and manifests of all parts."),
    "check": ("check", "Check tracked videos and print problems."),
    "convert": ("convert", "Convert an official checkpoint to one .safetensors file."),
    "demo": ("demo", "Render the bundled clips and make a contact sheet."),
    "train": ("train", "Train a network on tracked videos or on synthetic subjects."),
    "estimate": ("estimate", "Estimate time, disk and memory of a run by a measurement."),
    "doctor": ("doctor", "Check this machine: packages, GPU, encoders, one clip."),
    "slurm": ("slurm", "Write a job script for a SLURM array."),
    "bench": ("bench", "Measure the time per view on this machine, by stage."),
    "evaluate": ("evaluate", "Measure a model on held-out synthetic subjects."),
    "completion": ("completion", "Write a completion script for bash, zsh or tcsh."),
}
