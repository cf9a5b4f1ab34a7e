"""What makes the views of a video: this process, worker processes, Ray actors."""
