"""What the scripts of confined processes share: they limit themselves, and answer one request after the other.

Requests and replies are JSON, each after its length in 8 bytes.
"""

import json
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

TOO_MUCH_MEMORY: Final = "it needs too much memory"
TOO_DEEP: Final = {"too_deep": True}
"""In place of a reply that cannot be written, as it is nested too deeply."""
_LONGEST_REASON: Final = 500


def confine(memory_bytes: int, **more: int) -> None:
    """Limits this process for good: its memory, and that it opens no file and starts nothing.

    Args:
        more: other limits, by the names that they have in `resource` behind RLIMIT.
    """
    # Ctrl-C ends the service, and that ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name, value in {"AS": memory_bytes, "NOFILE": 0, "NPROC": 0, "FSIZE": 0, "CORE": 0, **more}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def serve(answer_to: Callable[[dict[str, Any]], dict[str, Any]], cpu_seconds: float) -> None:
    """Answers requests until there are no more, each within so much processor time."""
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    while header := requests.read(8):
        request = json.loads(requests.read(int.from_bytes(header)))
        limit_time(cpu_seconds)
        try:
            body = json.dumps(answer_to(request)).encode()
        except MemoryError:
            body = json.dumps({"error": TOO_MUCH_MEMORY}).encode()
        except RecursionError:
            body = json.dumps(TOO_DEEP).encode()
        limit_time(0)
        replies.write(len(body).to_bytes(8) + body)
        replies.flush()


def limit_time(cpu_seconds: float) -> None:
    """From now on this process may run so long; 0 is without end. `serve` does so for each request."""
    # nothing handles its signal, so it kills the process even inside a C function
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def shortened(reason: str) -> str:
    """A reason on one line of bounded length."""
    return " ".join(reason[:_LONGEST_REASON].split())
