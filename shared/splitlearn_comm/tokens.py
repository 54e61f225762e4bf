"""Bearer tokens that a worker asks its clients for (RFC 6750): what one is, a file of them, and whose one is.

Nothing here reads files or knows the time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from splitlearn_comm.errors import BadToken

T = TypeVar("T")

HEADER: Final = "authorization"
"""The metadata of a call that has its token, behind the word Bearer."""

DEFAULT_NAME: Final = "default"
"""The name of tokens that were given without one."""

# RFC 6750's characters of a bearer token, of which a header may have this many.
TOKEN_FORM: Final = re.compile(r"[A-Za-z0-9._~+/-]{1,512}=*")
_NAME_FORM: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
# Tokens may be tried as fast as calls can be made. 16 random characters are 80 bits and more.
_SHORTEST: Final = 16
_MAKE_ONE: Final = "`openssl rand -hex 32` makes one"


@dataclass(frozen=True)
class Token:
    """A secret, and the name of those who have it, which logs and metrics show."""

    name: str
    value: str = field(repr=False)


def new_token() -> str:
    """A token that nobody can guess: 256 random bits."""
    return secrets.token_urlsafe(32)


def checked_token(name: str, value: str) -> Token:
    """A token of a worker.

    Raises:
        BadToken: it is too short, or cannot be in a header. The message never has the token.
    """
    if not _NAME_FORM.fullmatch(name):
        raise BadToken("a token's name has 1 to 64 letters, digits, and any of _ . -")
    if len(value) < _SHORTEST:
        raise BadToken(f"the token of {name} has fewer than {_SHORTEST} characters and could be guessed; {_MAKE_ONE}")
    if not TOKEN_FORM.fullmatch(value):
        raise BadToken(f"the token of {name} has characters that no header can hold; {_MAKE_ONE}")
    return Token(name, value)


def parse_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of a file: one for each line, `TOKEN` or `NAME TOKEN`. Lines that begin with # are comments.

    A name may have several tokens, an old and a new one for example.

    Raises:
        BadToken: a line is neither, a token has two names, or there is no token. The message never has a token.
    """
    tokens: dict[str, Token] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise BadToken(f"line {number} has more than two words; write TOKEN, or NAME TOKEN")
        name = words[0] if len(words) == 2 else DEFAULT_NAME
        try:
            token = checked_token(name, words[-1])
        except BadToken as error:
            raise BadToken(f"line {number}: {error}") from error
        if tokens.setdefault(token.value, token).name != name:
            raise BadToken(f"line {number}: the token has another name already; give each name a token of its own")
    if not tokens:
        raise BadToken(f"there is no token in it; {_MAKE_ONE}")
    return tuple(tokens.values())


def bearer(headers: Iterable[str]) -> str | None:
    """The token of a call's `authorization` headers; None unless there is exactly one, of the kind Bearer."""
    found = list(headers)
    if len(found) != 1:
        return None
    scheme, _, token = found[0].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


class Keyring(Generic[T]):
    """Whose a secret is: a worker's token, or a key of the HTTP API.

    Args:
        owners: by the digest of each of their secrets.
    """

    def __init__(self, owners: Mapping[bytes, T]) -> None:
        self._owners = dict(owners)

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def owners(self) -> frozenset[T]:
        return frozenset(self._owners.values())

    def find(self, presented: str) -> T | None:
        """The owner of a secret; None if it is nobody's.

        How long it takes does not depend on which secret matches, or how much of one: digests are compared, and all of
        them.
        """
        digest, found = digest_of(presented), None
        # to the end: an early exit would tell how far a guess got
        for known, owner in self._owners.items():
            if hmac.compare_digest(known, digest):
                found = owner
        return found


def digest_of(secret: str) -> bytes:
    """The SHA-256 of a secret. Secrets are long and random, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
