"""The edge to transformers: the only package that imports names of it that are not public API.

Public is what `from transformers import ...` gives. Everything else is reached through a function here, one for each
name, with a test in `tests/unit/splitlearn/hf`. Versions of transformers from 5.20 to 5.24 are bridged here too, by
looking at signatures and attributes and not at version numbers.
"""
