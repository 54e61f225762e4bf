"""The documented module path for evaluating a distilled model; `cleangpt.evaluation` does the work."""
