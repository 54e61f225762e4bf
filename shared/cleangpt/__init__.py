"""Train small models that the rest of the project cuts and serves."""
