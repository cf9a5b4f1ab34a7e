"""Landmarks of one person in a video: MediaPipe's nets, and the graph around them."""
