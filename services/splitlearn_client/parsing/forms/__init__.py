"""The forms of the common families, one module each."""
