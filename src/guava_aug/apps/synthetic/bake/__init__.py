"""Made once, at build time: the free body model and the picture bank."""
