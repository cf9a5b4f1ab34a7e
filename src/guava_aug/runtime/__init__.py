"""The machine: devices, threads, signals, files, clocks."""
