"""One module for each verb: `Settings` are its flags, `run` is its help and its deed."""
