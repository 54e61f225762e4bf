"""How many files this process may open: each connection takes one."""

import resource
from typing import Final

_ENOUGH: Final = 65536


def allow_more_files() -> None:
    """Raises the limit on open files as far as this process may, to 65,536 at most.

    Systems give 1,024 to programs that ask for no more, and a worker that has none left accepts no connection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
