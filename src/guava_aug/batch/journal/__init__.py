"""What is known on disk of earlier and running work."""
