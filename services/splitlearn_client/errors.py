"""The errors of requests to the client service, each with its HTTP status.

RequestError                 root: HTTP status, OpenAI error type and code
├── BadRequest               400, the caller: a field that is not supported
├── PromptTooLong            400, the caller: the prompt fills the model's context
├── GrammarFailed            400, the caller: a grammar that cannot be followed to the answer's end
├── NoChatTemplate           400, the caller: a chat request to a model without a chat template
├── NoEmbeddings             400, the caller: an embedding of a model whose pooling is not supported
├── InvalidAPIKey            401, the caller: no API key, or an unknown one
├── Forbidden                403, the caller: a key that does not open this path
├── UnknownModel             404, the caller: a model that is not served here
├── UnknownResponse          404, the caller: a response that is not kept, or no longer
├── RequestTooLarge          413, the caller: a body with too many bytes or values
├── RequestTimeout           408, the caller: headers or a body that came too slowly
├── UnknownHost              421, the caller: a Host header that is not allowed
├── TooBusy                  429, the operator: not enough capacity now; with a time to retry
├── QuotaExceeded            429, the caller: its tenant's quota is used up; with a time to retry
├── TooManyConnections       503, the operator: too many connections
├── ShuttingDown             503, the operator: the service is shutting down
├── ProcessFailed            503, the operator: a process that the service works in ended; with a time to retry
├── TrunkNotReady            503, the operator: no trunk answers, or it serves another model or cut
├── TrunkFailed              502, the operator or the network: the trunk failed during the request
├── BrokenNumbers            500, the operator: the model's logits or hidden states are not finite
├── ResponseTemplateFailed   500, the operator: a response template or schema that is too much work for an answer
├── BadModelFiles            500, the operator: bad tokenizer, template or generation config; at start
└── BadTenants               500, the operator: a file of tenants that cannot be used; at start, later it is logged
"""

import math

from splitlearn_comm import (
    CommError,
    FingerprintMismatch,
    Overloaded,
    SessionTooLong,
    TimedOut,
    Unauthenticated,
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
        # may come from a trunk: a header cannot hold infinity, and more than an hour is no use
        usable = retry_after is not None and math.isfinite(retry_after)
        self.retry_after = min(max(retry_after or 0.0, 0.0), 3600.0) if usable else None


class BadRequest(RequestError):
    """A field that is not supported."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_value"


class PromptTooLong(BadRequest):
    """The prompt fills the context, and no token can follow."""

    code = "context_length_exceeded"


class GrammarFailed(BadRequest):
    """The request's schema, expression or grammar cannot be followed at some token of the answer."""

    code = "grammar_failed"


class NoChatTemplate(BadRequest):
    """The model's tokenizer has no chat template."""

    code = "no_chat_template"


class NoEmbeddings(BadRequest):
    """The model's embeddings need something that is not supported."""

    code = "no_embeddings"


class InvalidAPIKey(BadRequest):
    """The request has no API key, or one that is nobody's. `challenge` is what WWW-Authenticate says (RFC 6750)."""

    status = 401
    code = "invalid_api_key"

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class Forbidden(BadRequest):
    """The API key is valid, but does not open this path."""

    status = 403
    kind = "permission_error"
    code = "forbidden"


class UnknownModel(BadRequest):
    """The service has another model."""

    status = 404
    code = "model_not_found"


class UnknownResponse(BadRequest):
    """No response with this id is kept for this caller."""

    status = 404
    code = "response_not_found"


class RequestTooLarge(BadRequest):
    """The body has too many bytes or values."""

    status = 413
    code = "request_too_large"


class RequestTimeout(BadRequest):
    """Headers or body came too slowly."""

    status = 408
    code = "request_timeout"


class UnknownHost(BadRequest):
    """The Host header names neither this service nor an allowed host."""

    status = 421
    code = "unknown_host"


class TooBusy(RequestError):
    """There is not enough capacity for the request, and the queue is full or too slow."""

    status = 429
    kind = "rate_limit_error"
    code = "too_busy"


class QuotaExceeded(RequestError):
    """The tenant's quota is used up."""

    status = 429
    kind = "rate_limit_error"
    code = "rate_limit_exceeded"


class TooManyConnections(RequestError):
    """The limit on connections is reached."""

    status = 503
    code = "too_many_connections"


class ShuttingDown(RequestError):
    """The service is shutting down."""

    status = 503
    code = "shutting_down"


class ProcessFailed(RequestError):
    """A process of the service's own ended without the request being to blame."""

    status = 503
    code = "process_failed"


class TrunkNotReady(RequestError):
    """No compatible trunk answers."""

    status = 503
    code = "trunk_not_ready"


class TrunkFailed(RequestError):
    """The trunk failed during this request."""

    status = 502
    code = "trunk_failed"


class BrokenNumbers(RequestError):
    """The logits or hidden states hold NaN or infinity; the weights or the dtype are wrong."""

    code = "broken_numbers"


class ResponseTemplateFailed(RequestError):
    """The tokenizer's response template or response schema exceeds its limits on an answer."""

    code = "response_template_failed"


class BadModelFiles(RequestError):
    """A file beside the weights is unusable; the service does not start."""

    code = "bad_model_files"


class BadTenants(RequestError):
    """The file of tenants cannot be used; the service does not start. No message repeats a key."""

    code = "bad_tenants"


def from_wire(error: CommError, *, begun: bool = False) -> RequestError:
    """The request's error for one of the wire. `begun`: the trunk has already answered for this request."""
    if isinstance(error, SessionTooLong):
        return PromptTooLong(str(error))
    if isinstance(error, Overloaded):
        busy = TooBusy(f"the trunk is at capacity: {error}", retry_after=error.retry_after)
        busy.retry_after = busy.retry_after or 1.0
        return busy
    if not begun and isinstance(error, Unreachable | FingerprintMismatch | Unauthenticated | UnknownCodec):
        return TrunkNotReady(str(error))
    if isinstance(error, TimedOut):
        return TrunkFailed(f"the trunk did not answer in time: {error}")
    return TrunkFailed(f"the trunk failed: {error}")
