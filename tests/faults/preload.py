"""What the server process imports that all workers are forked from.

Nothing of it is garbage, so collectors need not look at it: a worker that starts would otherwise walk through, and so
copy, all the memory that it shares with the server, which takes longer than the rest of its start.
"""

import gc

import faults.worker  # noqa: F401 - for the forks

gc.collect()
gc.freeze()
