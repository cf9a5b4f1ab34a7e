"""Rendering: rasterisation of Gaussians, backgrounds and compositing."""
