"""Trains small models that the rest of the project can cut and serve."""
