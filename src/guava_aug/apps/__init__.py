"""Programs on top: nothing but the command line and benchmarks/ imports them."""
