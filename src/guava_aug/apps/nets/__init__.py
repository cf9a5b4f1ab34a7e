"""Made once, at build time: the detection nets in `assets/nets`, converted from MediaPipe's TFLite files."""
