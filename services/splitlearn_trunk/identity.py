"""The certificate and the token that a worker makes for itself, and keeps so that a restart changes neither."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from splitlearn_comm.certificates import CertifiedKey, check_pair, self_signed
from splitlearn_comm.errors import BadCertificates, BadToken
from splitlearn_comm.key_files import KEY_MODE, write_whole
from splitlearn_comm.tokens import DEFAULT_NAME, checked_token, new_token

log = structlog.get_logger()

CERTIFICATE_FILE: Final = "trunk.pem"
TOKEN_FILE: Final = "trunk.token"
_DIRECTORY_MODE: Final = 0o700


@dataclass(frozen=True)
class Identity:
    """By what clients know a worker, and what they have to show it.

    Attributes:
        pair: the self-signed certificate and its key.
        token: None if the worker was given tokens.
    """

    pair: CertifiedKey
    token: str | None = field(repr=False)


def identity(directory: Path | None, environ: Mapping[str, str], *, makes_token: bool) -> Identity:
    """What is kept, or else made and kept. All workers that use one directory have the same.

    Args:
        directory: None is the default; if that cannot be used, certificate and token are made for this process alone.
        environ: for the default directory.
        makes_token: whether there is to be a token.

    Raises:
        BadCertificates, BadToken: what is kept cannot be used, or nothing can be kept in the directory that was given.
    """
    try:
        return _kept(directory or default_directory(environ), makes_token=makes_token)
    except OSError as error:
        reason = f"{error.filename or directory}: {error.strerror}"
        if directory is not None:
            raise BadCertificates(
                f"certificate and token cannot be kept ({reason}); give another --state-dir, or certificates"
            ) from error
    log.warning(
        "certificate and token are not kept: each start makes new ones, and clients need the new line",
        reason=reason,
        advice="--state-dir names a directory that can be written, SPLITLEARN_TRUNK_STATE_DIR too",
    )
    return Identity(self_signed(datetime.now(UTC)), new_token() if makes_token else None)


def default_directory(environ: Mapping[str, str]) -> Path:
    """By the XDG Base Directory Specification, which ignores relative paths. Raises OSError without a home."""
    for variable, below in (("XDG_STATE_HOME", ""), ("HOME", ".local/state")):
        if (found := Path(environ.get(variable) or ".")).is_absolute():
            return found / below / "splitlearn"
    raise FileNotFoundError(2, "neither XDG_STATE_HOME nor HOME is set", "the state directory")


def _kept(directory: Path, *, makes_token: bool) -> Identity:
    directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    now = datetime.now(UTC)
    file = directory / CERTIFICATE_FILE
    pair = _split(_content(file, lambda: _joined(self_signed(now))))
    try:
        check_pair(pair.certificate, pair.key, now)
    except BadCertificates as error:
        raise BadCertificates(f"{file}: {error}; remove it, and give clients the new line") from error
    return Identity(pair, _kept_token(directory / TOKEN_FILE) if makes_token else None)


def _kept_token(file: Path) -> str:
    content = _content(file, lambda: f"{new_token()}\n".encode())
    try:
        return checked_token(DEFAULT_NAME, content.decode(errors="replace").strip()).value
    except BadToken as error:
        raise BadToken(f"{file}: {error}; remove it, and give clients the new line") from error


def _content(file: Path, made: Callable[[], bytes]) -> bytes:
    """The file's, which is made if it is not there. Two workers that start at the same time get the same."""
    with suppress(FileNotFoundError):
        return file.read_bytes()
    with suppress(FileExistsError):
        write_whole(file, made(), KEY_MODE, replace=False)
    return file.read_bytes()


def _joined(pair: CertifiedKey) -> bytes:
    """One file for both, so that they cannot be of two workers."""
    return pair.key + pair.certificate


def _split(both: bytes) -> CertifiedKey:
    key, begin, rest = both.partition(b"-----BEGIN CERTIFICATE-----")
    return CertifiedKey(begin + rest, key)
