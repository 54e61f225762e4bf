"""`splitlearn certs`: a local certificate authority in a directory, and what it signs."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from splitlearn_cli.errors import BadUsage
from splitlearn_cli.flags import Repeated
from splitlearn_cli.terminal import aligned

if TYPE_CHECKING:
    from splitlearn_comm.certificates import CertifiedKey

_AUTHORITY = "ca"
_AUTHORITY_DAYS = 3650
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")


class Settings(BaseSettings):
    """Whom to make certificates for."""

    model_config = SettingsConfigDict(env_prefix="SPLITLEARN_CERTS_", frozen=True, extra="forbid")

    directory: Path = Field(description="Directory of the authority and of what it signs; made if it is not there.")
    host: Repeated = Field(
        (),
        description="Names and addresses that one trunk worker is reached by, NAME,NAME,...; once for each worker. "
        "Default without --client: this machine's own.",
    )
    client: Repeated = Field((), description="Name of a client service; once for each. Default without --host: client.")
    days: int = Field(365, ge=1, le=3650, description="Days that a certificate is valid, but not beyond the CA's end.")
    renew: bool = Field(False, description="Replace the keys and certificates of these workers and clients.")


@dataclass(frozen=True)
class _Wanted:
    """One certificate. Its files are named after the first of its names."""

    names: tuple[str, ...]
    is_server: bool

    def files(self, directory: Path) -> tuple[Path, Path]:
        """Certificate and key."""
        return _pair_files(directory, self.names[0])


def run(settings: Settings) -> None:
    """The authority is made once and reused. Keys can be read by their owner alone, and only --renew replaces one.

    Running workers take renewed files without a restart.
    """
    wanted = list(_wanted(settings))
    settings.directory.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    authority, is_new = _authority(settings.directory, now)
    rows = [("FILES", "FOR", "VALID UNTIL", "")]
    rows.append(_row(settings.directory, _AUTHORITY, "signing", authority, "made" if is_new else "kept"))
    for each in wanted:
        pair, done = _pair(settings, each, authority, now)
        kind = "worker" if each.is_server else "client"
        rows.append(_row(settings.directory, each.names[0], f"{kind} {', '.join(each.names)}", pair, done))
    print(aligned(rows))
    print()
    for line in _next(settings.directory, wanted):
        print(line)


def _wanted(settings: Settings) -> Iterator[_Wanted]:
    """What was asked for. Raises BadUsage."""
    hosts = [tuple(name.lower().rstrip(".") for name in each.replace(",", " ").split()) for each in settings.host]
    clients = [each.lower() for each in settings.client]
    if not hosts and not clients:
        hosts, clients = [_THIS_MACHINE], ["client"]
    taken = {_AUTHORITY}
    everything = [*(_Wanted(names, True) for names in hosts), *(_Wanted((name,), False) for name in clients)]
    for each in everything:
        _check_names(each)
        if each.names[0] in taken:
            raise BadUsage(
                f"two certificates would be in {each.names[0]}.crt; give each a name of its own to begin with"
            )
        taken.add(each.names[0])
        yield each


def _check_names(wanted: _Wanted) -> None:
    from splitlearn_comm.addresses import check_host
    from splitlearn_comm.errors import InvalidAddress

    if not wanted.names:
        raise BadUsage("--host has no name; give NAME,NAME,...")
    for name in wanted.names:
        try:
            check_host(name)
        except InvalidAddress as error:
            raise BadUsage(f"{'--host' if wanted.is_server else '--client'}: {error}") from error


def _authority(directory: Path, now: datetime) -> tuple["CertifiedKey", bool]:
    """The directory's authority, and whether it was made now. Raises BadCertificates."""
    from splitlearn_comm.certificates import check_pair, make_authority
    from splitlearn_comm.errors import BadCertificates

    certificate, key = _pair_files(directory, _AUTHORITY)
    if (found := _read(certificate, key)) is None:
        made = make_authority(now, _AUTHORITY_DAYS)
        _write(certificate, key, made, replace=False)
        return made, True
    try:
        check_pair(found.certificate, found.key, now)
    except BadCertificates as error:
        raise BadCertificates(
            f"{certificate} and {key}: {error}; or make a new authority in another directory"
        ) from error
    return found, False


def _pair(settings: Settings, wanted: _Wanted, authority: "CertifiedKey", now: datetime) -> tuple["CertifiedKey", str]:
    """The certificate, and what was done: made, renewed or kept. Raises BadCertificates."""
    from splitlearn_comm.certificates import issue

    certificate, key = wanted.files(settings.directory)
    is_there = certificate.exists() or key.exists()
    if is_there and not settings.renew:
        return _kept(certificate, key, wanted, authority, now), "kept"
    made = issue(authority, wanted.names, is_server=wanted.is_server, now=now, days=settings.days)
    _write(certificate, key, made, replace=settings.renew)
    return made, "renewed" if is_there else "made"


def _kept(certificate: Path, key: Path, wanted: _Wanted, authority: "CertifiedKey", now: datetime) -> "CertifiedKey":
    """The pair in the files, if it is the one that is wanted. Raises BadCertificates."""
    from splitlearn_comm.certificates import check_issued
    from splitlearn_comm.errors import BadCertificates

    found = _read(certificate, key)
    if found is None:
        raise BadCertificates(f"{certificate} is not there any more; run it again")
    try:
        check_issued(found, authority, wanted.names, is_server=wanted.is_server, now=now)
    except BadCertificates as error:
        raise BadCertificates(f"{certificate}: {error}; --renew replaces it and its key") from error
    return found


def _read(certificate: Path, key: Path) -> "CertifiedKey | None":
    """None if neither is there. Raises BadCertificates if one is missing."""
    from splitlearn_comm.certificates import CertifiedKey
    from splitlearn_comm.errors import BadCertificates

    there = certificate.exists(), key.exists()
    if there == (False, False):
        return None
    if there != (True, True):
        found, missing = (certificate, key) if there[0] else (key, certificate)
        raise BadCertificates(
            f"{found} is there, but not {missing}; bring it back, or remove {found.name} if nothing needs it any more"
        )
    return CertifiedKey(certificate.read_bytes(), key.read_bytes())


def _write(certificate: Path, key: Path, pair: "CertifiedKey", *, replace: bool) -> None:
    """The key first: a certificate without its key would be of no use to anybody."""
    from splitlearn_comm.key_files import CERTIFICATE_MODE, KEY_MODE, write_whole

    write_whole(key, pair.key, KEY_MODE, replace=replace)
    write_whole(certificate, pair.certificate, CERTIFICATE_MODE, replace=replace)


def _pair_files(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.crt", directory / f"{name}.key"


def _row(directory: Path, name: str, purpose: str, pair: "CertifiedKey", done: str) -> tuple[str, str, str, str]:
    certificate, key = _pair_files(directory, name)
    return f"{certificate.name}, {key.name}", purpose, f"{pair.not_after:%Y-%m-%d}", done


def _next(directory: Path, wanted: list[_Wanted]) -> Iterator[str]:
    """The flags to use."""
    authority, authority_key = _pair_files(directory, _AUTHORITY)
    yield f"Each machine needs {authority} and its own two files. {authority_key} stays here."
    for each in wanted:
        certificate, key = each.files(directory)
        verb = "trunk " if each.is_server else "client"
        yield f"splitlearn {verb} WEIGHTS --tls-ca {authority} --tls-cert {certificate} --tls-key {key}"
