"""Tracking of videos as a run: work list, journal, shards, worker processes, resume."""
