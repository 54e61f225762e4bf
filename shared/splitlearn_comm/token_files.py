"""The tokens of one end: one that was given, those of a file, or both. A changed file is read again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from splitlearn_comm.errors import BadToken
from splitlearn_comm.file_changes import WatchedFiles
from splitlearn_comm.tokens import DEFAULT_NAME, Keyring, Token, checked_token, digest_of, parse_tokens

log = structlog.get_logger(__name__)

# ten thousand tokens; they are read on the event loop
_MOST_BYTES: Final = 2**20


class Tokens:
    """Used on one thread. Each use looks whether the file has changed. One that cannot be used changes nothing: the
    tokens stay, and the reason is logged once.

    Args:
        token: its name is DEFAULT_NAME.
        file: see `parse_tokens`.

    Raises:
        BadToken: there is no token, or one of them or the file cannot be used.
    """

    def __init__(self, token: str | None = None, file: Path | None = None) -> None:
        self._own = () if token is None else (checked_token(DEFAULT_NAME, token),)
        self._file = file
        self._files = WatchedFiles("tokens", (file,), self._read, BadToken)

    @property
    def first(self) -> str:
        """The token that a client sends: the one that was given, else the file's first."""
        return self._current().tokens[0].value

    @property
    def names(self) -> list[str]:
        """The names of all tokens, each once."""
        return self._current().names

    def name_of(self, presented: str) -> str | None:
        """Whose a token is; None if it is none of these."""
        return self._current().keyring.find(presented)

    def _current(self) -> _Held:
        if self._files.look():
            log.info("tokens were read again", clients=self._files.value.names)
        return self._files.value

    def _read(self) -> _Held:
        if not (tokens := self._own + (() if self._file is None else _read(self._file))):
            raise BadToken("no token was given")
        return _Held(tokens, Keyring({digest_of(token.value): token.name for token in tokens}))


@dataclass(frozen=True)
class _Held:
    """Tokens, and whose they are."""

    tokens: tuple[Token, ...]
    keyring: Keyring[str]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(token.name for token in self.tokens))


def given_tokens(token: str | None, file: Path | None) -> Tokens | None:
    """The tokens of settings; None if there are none. Raises BadToken."""
    return Tokens(token, file) if token is not None or file is not None else None


def _read(file: Path) -> tuple[Token, ...]:
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BadToken(f"cannot read the tokens in {file}: {error.strerror}; check path and permissions") from error
    if len(content) > _MOST_BYTES:
        raise BadToken(f"{file} has more than {_MOST_BYTES} bytes; it should have one token in each line")
    try:
        return parse_tokens(content.decode())
    except UnicodeDecodeError:
        raise BadToken(f"{file} is not text; it should have one token in each line") from None
    except BadToken as error:
        raise BadToken(f"{file}: {error}") from error
