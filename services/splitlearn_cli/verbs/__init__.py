"""One module per verb: `Settings` are its flags, `run` runs it."""
