"""Fits a small model to a large one: block by block, end to end, or as a shadow of a trunk that only answers."""
