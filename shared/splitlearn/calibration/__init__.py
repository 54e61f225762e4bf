"""Weights rounded to 4 bits with regard to what a few prompts make of their inputs."""
