"""What a request to the client service can run into, with the HTTP status that each becomes.

RequestError                 everything below: status, OpenAI error type and code
├── BadRequest               400, the caller: a field that cannot be honoured
├── PromptTooLong            400, the caller: the prompt leaves no room in the model's context
├── NoChatTemplate           400, the caller: chat asked of a model without a chat template
├── UnknownModel             404, the caller: a model that is not served here
├── RequestTooLarge          413, the caller: a body longer, or of more values, than is taken here
├── RequestTimeout           408, the caller: headers or a body that did not come in time
├── UnknownHost              421, the caller: a Host header that names another service
├── TooBusy                  429, the operator: no room for more requests now; with the time to wait
├── TooManyConnections       503, the operator: no room for more connections now
├── ShuttingDown             503, the operator: this service is about to end
├── TrunkNotReady            503, the operator: no trunk answers, or it holds something else
├── TrunkFailed              502, the operator or the network: the trunk failed in the middle
├── BrokenNumbers            500, the operator: the model's logits are not finite
└── BadModelFiles            500, the operator: tokenizer, template or generation config cannot be used; at start
"""

import math

from splitlearn_comm import (
    CommError,
    FingerprintMismatch,
    Overloaded,
    SessionTooLong,
    TimedOut,
    UnknownCodec,
    Unreachable,
)


class RequestError(Exception):
    """Root of this package's errors."""

    status = 500
    kind = "server_error"
    code = "internal_error"

    def __init__(self, message: str, param: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.param = param
        # may come from a trunk; a header cannot say infinity, and nobody waits for more than an hour
        usable = retry_after is not None and math.isfinite(retry_after)
        self.retry_after = min(max(retry_after or 0.0, 0.0), 3600.0) if usable else None


class BadRequest(RequestError):
    """A field that cannot be honoured."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_value"


class PromptTooLong(BadRequest):
    """The prompt leaves no room for an answer."""

    code = "context_length_exceeded"


class NoChatTemplate(BadRequest):
    """The model's tokenizer carries no chat template."""

    code = "no_chat_template"


class UnknownModel(BadRequest):
    """The model named is not served here."""

    status = 404
    code = "model_not_found"


class RequestTooLarge(BadRequest):
    """The body is longer, or has more values, than this service reads."""

    status = 413
    code = "request_too_large"


class RequestTimeout(BadRequest):
    """Headers or body did not come in time."""

    status = 408
    code = "request_timeout"


class UnknownHost(BadRequest):
    """The Host header names neither this service nor anything that it was told to answer to."""

    status = 421
    code = "unknown_host"


class TooBusy(RequestError):
    """There is no room for the request now, nor to wait for it."""

    status = 429
    kind = "rate_limit_error"
    code = "too_busy"


class TooManyConnections(RequestError):
    """There is no room for more connections now."""

    status = 503
    code = "too_many_connections"


class ShuttingDown(RequestError):
    """The service was told to stop."""

    status = 503
    code = "shutting_down"


class TrunkNotReady(RequestError):
    """No trunk that fits can be reached."""

    status = 503
    code = "trunk_not_ready"


class TrunkFailed(RequestError):
    """The trunk failed while it served this request."""

    status = 502
    code = "trunk_failed"


class BrokenNumbers(RequestError):
    """The logits hold NaN or infinity; the weights or the dtype are at fault."""

    code = "broken_numbers"


class BadModelFiles(RequestError):
    """The files beside the weights cannot be used as they are; ends the service before it serves."""

    code = "bad_model_files"


def from_wire(error: CommError, *, begun: bool = False) -> RequestError:
    """The HTTP side of an error that came over the wire; `begun` once the trunk has answered for this request."""
    if isinstance(error, SessionTooLong):
        return PromptTooLong(str(error))
    if isinstance(error, Overloaded):
        busy = TooBusy(f"the trunk has no room: {error}", retry_after=error.retry_after)
        busy.retry_after = busy.retry_after or 1.0
        return busy
    if not begun and isinstance(error, Unreachable | FingerprintMismatch | UnknownCodec):
        return TrunkNotReady(str(error))
    if isinstance(error, TimedOut):
        return TrunkFailed(f"the trunk did not answer in time: {error}")
    return TrunkFailed(f"the trunk failed: {error}")
