"""Where keys and values are held and attended to, a package per kind of device. `splitlearn.runner.select` chooses."""
