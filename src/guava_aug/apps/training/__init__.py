"""Training of GUAVA networks: generated people or tracked videos in, a checkpoint out. The core never imports this."""
