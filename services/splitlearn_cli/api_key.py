"""The API key that a command sends to an endpoint."""

from typing import Annotated, Final

from pydantic import AfterValidator, SecretStr
from pydantic_core import PydanticCustomError

KEY_DESCRIPTION: Final = (
    "Your API key at the endpoint, sent as a bearer token. The variable keeps it out of process lists."
)


def _sendable(secret: SecretStr | None) -> SecretStr | None:
    key = key_text(secret)
    if key is not None and not (key.isascii() and key.isprintable()):
        raise PydanticCustomError("key", "it has characters that a header cannot hold")
    return secret


SentKey = Annotated[SecretStr | None, AfterValidator(_sendable)]
"""A setting whose value no message shows."""


def key_text(secret: SecretStr | None) -> str | None:
    """The key itself."""
    return None if secret is None else secret.get_secret_value()


def bearer(api_key: str | None) -> dict[str, str]:
    """The header with the key; none without one."""
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
