"""Takes a model's output apart: what it says, what it thinks, and which tools it calls."""
