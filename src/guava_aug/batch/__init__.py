"""Many videos: plan, execute, journal, status."""
