"""The tokens of one end: one that was given, those of a file, or both. A changed file is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from splitlearn_comm.errors import BadToken
from splitlearn_comm.file_changes import identity_of
from splitlearn_comm.tokens import DEFAULT_NAME, Token, TokenNames, checked_token, parse_tokens

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
        # taken before the file is read, so that a change in between is seen next time
        self._seen = None if file is None else identity_of(file)
        self._set(() if file is None else _read(file))

    @property
    def first(self) -> str:
        """The token that a client sends: the one that was given, else the file's first."""
        self._read_again()
        return self._tokens[0].value

    @property
    def names(self) -> list[str]:
        """The names of all tokens, each once."""
        self._read_again()
        return list(dict.fromkeys(token.name for token in self._tokens))

    def name_of(self, presented: str) -> str | None:
        """Whose a token is; None if it is none of these."""
        self._read_again()
        return self._by_token.name_of(presented)

    def _set(self, of_file: tuple[Token, ...]) -> None:
        if not (tokens := self._own + of_file):
            raise BadToken("no token was given")
        self._tokens = tokens
        self._by_token = TokenNames(tokens)

    def _read_again(self) -> None:
        if self._file is None or (found := identity_of(self._file)) == self._seen:
            return
        self._seen = found
        try:
            self._set(_read(self._file))
        except BadToken as error:
            log.warning("new tokens cannot be used, the old ones stay", reason=str(error))
        else:
            log.info("tokens were read again", clients=self.names)


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
