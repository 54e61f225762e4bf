"""Measures the quality of trained models."""
