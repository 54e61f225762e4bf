"""The documented place of the evaluation of a distilled model; `cleangpt.evaluation` does the work."""
