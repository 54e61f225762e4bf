"""What stands before a worker's port: its certificate, the tokens that it asks for, and what clients are told."""

import os
from dataclasses import dataclass, field
from typing import Any, Final

from splitlearn_comm.pinned import server_credentials
from splitlearn_comm.tls import ServerCertificates, TLSFiles, tls_files
from splitlearn_comm.token_files import Tokens, given_tokens
from splitlearn_trunk.identity import identity
from splitlearn_trunk.listening import is_public
from splitlearn_trunk.protection import Encryption, protection
from splitlearn_trunk.settings import TrunkSettings

_PLACEHOLDER: Final = "TOKEN"
_SECRET: Final = "the line is a secret: whoever has it can use this worker"
_FILL_IN: Final = f"put a token of --token-file or --token in the place of {_PLACEHOLDER}"


@dataclass(frozen=True)
class Guard:
    """For `AsyncGRPCComputeServer`, and for the operator.

    Attributes:
        credentials: gRPC's; None for connections in clear.
        tokens: that calls must have; None if none is asked for.
        suffix: what clients write behind the address. It may have the worker's own token, but none that was given.
        note: what the operator has to know about that line.
        warning: what everybody can do who reaches the port; None if nothing.
    """

    credentials: Any = None
    tokens: Tokens | None = None
    suffix: str = field(default="", repr=False)
    note: str | None = None
    warning: str | None = None


def guarded(settings: TrunkSettings) -> Guard:
    """Raises BadCertificates and BadToken, also where everybody could use the worker and nobody allowed that."""
    files = tls_files(settings.tls_ca, settings.tls_cert, settings.tls_key)
    token = None if settings.token is None else settings.token.get_secret_value()
    tokens = given_tokens(token, settings.token_file)
    chosen = protection(
        is_public=is_public(settings.host),
        has_certificate=files is not None,
        checks_clients=settings.tls_ca is not None,
        has_token=tokens is not None,
        is_insecure=settings.insecure,
    )
    if chosen.encryption is Encryption.OWN:
        return _own(settings, tokens, makes_token=chosen.makes_token)
    note = None if tokens is None else "clients need a token of --token-file or --token: --trunk-token-file"
    return Guard(None if files is None else _given(files), tokens, note=note, warning=chosen.warning)


def _given(files: TLSFiles) -> Any:
    return ServerCertificates(files).credentials()


def _own(settings: TrunkSettings, tokens: Tokens | None, *, makes_token: bool) -> Guard:
    own = identity(settings.state_dir, os.environ, makes_token=makes_token)
    return Guard(
        server_credentials(own.pair),
        tokens if own.token is None else Tokens(own.token),
        f"#{own.token or _PLACEHOLDER}.{own.pair.fingerprint}",
        _FILL_IN if own.token is None else _SECRET,
    )
