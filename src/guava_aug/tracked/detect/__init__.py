"""Landmarks of one person over a clip."""
