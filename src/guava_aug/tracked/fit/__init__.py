"""From landmarks of a clip to the parameters of the body."""
