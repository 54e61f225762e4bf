"""What can go wrong when a model is cut, loaded or run.

SplitError                    everything below; the message says what to do
├── UnsupportedModel          the operator: this architecture cannot be cut, with the reason
├── BadCheckpoint             the operator: the checkpoint lacks or contradicts what its config promises
├── BadRegistration           the author of an architecture: its class cannot be registered or used
├── BadPlan                   the operator: cut points that the model does not have
├── BadDevice                 the operator: a device, dtype or instruction set that this machine does not offer
├── EngineUnavailable         the operator: vLLM is not installed, or another version of it
├── EngineFailed              the server: a process that computes the layers is gone; this one has to be started again
├── PositionNotReached        the caller: rows for a position that the session has not come to, or cannot go back to
├── SessionClosed             the caller: rows for a session after its end
├── ContextExceeded           the caller: more rows than the model's context or the session's limit holds
├── NoRoom                    the operator: the memory for keys and values is too small
├── DoesNotFit                the operator: a model that is to be placed takes more memory than the machines have
├── HubError                  a model by its name
│   ├── HubRefused                the operator: the hub does not have the model, or does not give it to this user
│   ├── HubUnreachable            the network: no answer, or the line broke again and again; it may succeed later
│   ├── BadDownload               the hub: it sent something else than it announced
│   ├── NotCached                 the operator: not in the cache, and the hub may not be asked
│   └── FetchStopped              the caller: wanted no more
├── EngineFull                the server: no room for the session now, nor to wait for it
└── BadRows                   the caller: rows of the wrong shape or dtype, or not finite
"""


class SplitError(Exception):
    """Root of this package's errors."""


class UnsupportedModel(SplitError):
    """The architecture cannot be cut; the message gives the reason."""


class BadCheckpoint(SplitError):
    """The checkpoint's tensors do not match its config."""


class BadRegistration(SplitError):
    """A class of an architecture that its author registered, or tried to, does not keep to the rules."""


class BadPlan(SplitError):
    """Cut points outside the model, or in the wrong order."""


class BadDevice(SplitError):
    """The device, dtype or instruction set asked for is not available here."""


class EngineUnavailable(SplitError):
    """The engine asked for is not installed here, or is another version of it."""


class EngineFailed(SplitError):
    """The engine can compute nothing more: one of its processes has ended or failed."""


class PositionNotReached(SplitError):
    """Rows were sent for a position beyond the session's end, or behind it where the model cannot go back."""


class SessionClosed(SplitError):
    """The session was closed, or its rows were cached for others: it accepts no more rows."""


class ContextExceeded(SplitError):
    """The rows would not fit into the context."""


class BadRows(SplitError):
    """The rows' shape, dtype or values are not what the part takes."""


class NoRoom(SplitError):
    """The memory for keys and values does not hold a single page, or fewer than are wanted."""


class DoesNotFit(SplitError):
    """The machines that a model is to be placed on have too little memory.

    Attributes:
        worker: the index of the worker that lacks the least; None if it is the client that has too little.
        missing: the bytes that it lacks.
    """

    def __init__(self, message: str, worker: int | None, missing: int) -> None:
        super().__init__(message)
        self.worker = worker
        self.missing = missing


class HubError(SplitError):
    """A model that was given by its name is not to be had."""


class HubRefused(HubError):
    """The hub does not have the model or the revision, or does not give it to this user."""


class HubUnreachable(HubError):
    """The hub does not answer, or the line broke too often in a row. What was fetched is kept."""


class BadDownload(HubError):
    """The hub sent something else than it announced; nothing of it is used."""


class NotCached(HubError):
    """Something is not in the cache that cannot be fetched now."""


class FetchStopped(HubError):
    """The caller ended the fetching. What was fetched is kept."""


class EngineFull(SplitError):
    """Too many sessions wait for memory already, or this one would wait too long; it may succeed later.

    Attributes:
        retry_after: seconds after which there is likely to be room, if all that wait now are admitted before.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def one_line(error: Exception) -> str:
    """What another package's error says, for a message of ours."""
    return " ".join(str(error).split())[:300] or type(error).__name__
