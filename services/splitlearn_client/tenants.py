"""Tenants, their API keys and quotas, and the TOML file that has them. Plain values.

    [alice]
    keys = ["sha256:d2d77855c3561c61d84b5834ad206cd7921c8ce9172c6babb80030fd5ec63788"]
    max_parallel_requests = 4
    rpm_limit = 60
    tpm_limit = 20000

The names of the quotas are LiteLLM's. No message of this module repeats a key, nor anything else that could be one.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from splitlearn_client.errors import BadTenants
from splitlearn_client.settings import check_key
from splitlearn_comm.tokens import Keyring, digest_of

MOST_KEYS: Final = 4096
"""In one file. Each request is compared with all of them, which takes a millisecond for so many."""
_HASH: Final = "sha256:"
_HEX_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
# what may be shown of a setting that does not exist: a key that was put in the wrong place looks different
_SETTING: Final = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True)
class Quota:
    """What a tenant may use; None for no limit. Requests are HTTP requests; tokens are those of prompts and answers."""

    max_parallel_requests: int | None = None
    rpm_limit: int | None = None
    tpm_limit: int | None = None


@dataclass(frozen=True)
class Tenant:
    """Whose a key is.

    Attributes:
        name: empty for those who are not told apart: all callers without keys, and those with the key `--api-key`.
        may_read_metrics: whether the key opens /metrics if that is protected.
    """

    name: str
    quota: Quota = field(default_factory=Quota)
    may_read_metrics: bool = False


def parse_tenants(text: str, api_key: str | None = None) -> Keyring[Tenant]:
    """The keys of a file of tenants.

    Args:
        api_key: one more key, whose callers have no tenant's name, no quota, and may read the metrics.

    Raises:
        BadTenants: says where the text is wrong, and repeats no key.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # the rest of the message may quote the text
        where = re.search(r"\(at .*\)$", str(error))
        raise BadTenants(f"this is no TOML{f' {where[0]}' if where else ''}") from None
    try:
        entries = _FILE.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise BadTenants(_complaint(first["loc"], first["type"], first["msg"])) from None
    return _keyring(entries, api_key)


class _Entry(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    keys: Annotated[list[Annotated[str, AfterValidator(check_key)]], Field(min_length=1)]
    max_parallel_requests: Annotated[int, Field(ge=1)] | None = None
    rpm_limit: Annotated[int, Field(ge=1)] | None = None
    tpm_limit: Annotated[int, Field(ge=1)] | None = None
    metrics: bool = False


# a name goes into logs and labels
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.@-]{1,64}$")]
_FILE: Final = TypeAdapter(dict[_Name, _Entry], config=ConfigDict(hide_input_in_errors=True))


def _keyring(entries: Mapping[str, _Entry], api_key: str | None) -> Keyring[Tenant]:
    found: dict[bytes, Tenant] = {}
    if api_key is not None:
        found[digest_of(api_key)] = Tenant("", may_read_metrics=True)
    for name, entry in entries.items():
        tenant = Tenant(name, Quota(entry.max_parallel_requests, entry.rpm_limit, entry.tpm_limit), entry.metrics)
        for i, key in enumerate(entry.keys):
            hashed = _digest_of(key, f"{name}.keys.{i}")
            other = found.setdefault(hashed, tenant)
            if other is not tenant:
                raise BadTenants(f"{name}.keys.{i} is also a key of {other.name or '--api-key'}; give each its own")
    if len(found) > MOST_KEYS:
        raise BadTenants(f"there are {len(found)} keys, but at most {MOST_KEYS} are allowed")
    if not found:
        raise BadTenants("there is no tenant; nobody could use the service")
    return Keyring(found)


def _digest_of(key: str, where: str) -> bytes:
    """Of a key, or of one that is given as its hash."""
    if not key.startswith(_HASH):
        return digest_of(key)
    hexadecimal = key.removeprefix(_HASH)
    if not _HEX_DIGEST.fullmatch(hexadecimal):
        raise BadTenants(f"{where}: behind {_HASH} there are 64 hexadecimal digits, in lower case")
    return bytes.fromhex(hexadecimal)


def _complaint(location: tuple[int | str, ...], kind: str, message: str) -> str:
    """One line about the first error; a place that the file does not name itself is left out."""
    where: list[Any] = list(location)
    if "[key]" in where:
        return "a tenant's name has 1 to 64 letters, digits and _ . @ -"
    if kind == "extra_forbidden" and not _SETTING.fullmatch(str(where[-1])):
        where[-1] = "?"
    if kind == "extra_forbidden":
        message = f"there is no such setting; there are {', '.join(_Entry.model_fields)}"
    return f"{'.'.join(map(str, where))}: {message[0].lower()}{message[1:]}"
