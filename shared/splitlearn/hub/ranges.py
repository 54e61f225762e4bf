"""Ranges of the hub's files over HTTP: checked, and resumed where the line broke.

Nobody vouches for a part of a file. So each answer must be of the commit and of the file's ETag, of exactly the bytes
that were asked for, of a file as long as the hub says; the tensors' places come from headers that are part of the
model's identity.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

import httpx
from huggingface_hub import constants

from splitlearn.errors import BadDownload, HubRefused, HubUnreachable
from splitlearn.hub.listing import TOKEN_HINT, HubFile
from splitlearn.hub.patience import PASSING, Patience, retry_after_of
from splitlearn.hub.stopping import Stop

_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20})", re.ASCII)
_CONNECT_SECONDS = 10.0
_REFUSED, _GONE, _OUTSIDE = (401, 403), (404, 410), 416


@dataclass
class RangeReader:
    """Reads ranges of the files of one commit. Threads may share it; as a context manager it ends its connections.

    Args:
        model: what it is called in errors.
        commit: what all answers must be of.
        url_of: where a file is had from.
        headers: what requests carry; not sent on to other hosts with the token.
    """

    model: str
    commit: str
    url_of: Callable[[str], str]
    headers: Mapping[str, str]
    patience: Patience = field(default_factory=Patience)
    _seen: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = httpx.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT, connect=_CONNECT_SECONDS)
        # httpx takes the authorization off when a redirect leads to another host
        self._client = httpx.Client(follow_redirects=True, timeout=limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def read(self, file: HubFile, start: int, end: int, write: Callable[[bytes], object], stop: Stop) -> None:
        """Hands the bytes `start` up to, not including, `end` to `write`, in order and each once.

        Raises:
            HubRefused, HubUnreachable, BadDownload
            FetchStopped: `stop` was set.
        """
        at, failures = start, 0
        while at < end:
            before = at
            try:
                for chunk in self._chunks(file, at, end):
                    write(chunk)
                    at += len(chunk)
                    stop.check()
                if at < end:
                    raise _Broken(f"the answer ended {end - at} bytes too early")
            except (_Broken, httpx.TransportError) as error:
                failures = 0 if at > before else failures + 1
                self._wait(file, error, failures, stop)

    def _wait(self, file: HubFile, error: Exception, failures: int, stop: Stop) -> None:
        seconds = self.patience.wait(failures, error.retry_after if isinstance(error, _Broken) else None)
        if seconds is None:
            reason = str(error) or type(error).__name__
            raise HubUnreachable(
                f"{self.model}: {file.name} cannot be fetched: {reason}; what is there is kept, try again"
            ) from error
        stop.wait(seconds)
        stop.check()

    def _chunks(self, file: HubFile, start: int, end: int) -> Iterator[bytes]:
        headers = {**self.headers, "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        try:
            with self._client.stream("GET", self.url_of(file.name), headers=headers) as answer:
                self._check(file, answer, start, end)
                left = end - start
                # as they come: chunks of a fixed size would be lost with the line
                for chunk in answer.iter_raw():
                    left -= len(chunk)
                    if left < 0:
                        raise self._bad(file, "the hub sends more than it was asked for")
                    yield chunk
        except httpx.TooManyRedirects as error:
            raise self._bad(file, "the hub redirects in circles") from error

    def _check(self, file: HubFile, answer: httpx.Response, start: int, end: int) -> None:
        """Raises unless the answer has exactly these bytes of this file of this commit."""
        status = answer.status_code
        if status in PASSING:
            raise _Broken(f"the hub answered {status}", retry_after_of(answer.headers.get("Retry-After")))
        if status in _REFUSED:
            raise HubRefused(f"{self.model}: the hub refuses {file.name} ({status}): {TOKEN_HINT}")
        if status in _GONE:
            raise HubRefused(f"{self.model}: the hub does not have {file.name} any more")
        if status == _OUTSIDE:
            raise self._bad(file, f"the hub says that it has no bytes {start}-{end}")
        if status != httpx.codes.PARTIAL_CONTENT:
            raise self._bad(file, f"the hub answered {status} in place of a range; `splitlearn convert` needs none")
        chain = [*answer.history, answer]
        if chain[0].url.scheme == "https" and any(each.url.scheme != "https" for each in chain):
            raise self._bad(file, "the hub redirects to a connection that is not encrypted")
        self._check_origin(file, chain)
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if found is None or tuple(map(int, found.groups())) != (start, end - 1, file.size):
            told = answer.headers.get("Content-Range")
            raise self._bad(file, f"asked for bytes {start}-{end - 1} of {file.size}, the hub sends {told!r}")
        length = answer.headers.get("Content-Length")
        if length is not None and length != str(end - start):
            raise self._bad(file, f"asked for {end - start} bytes, the hub announces {length}")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise self._bad(file, "the hub sends encoded bytes, which was not asked for")

    def _check_origin(self, file: HubFile, chain: list[httpx.Response]) -> None:
        own = [each for each in chain if "X-Repo-Commit" in each.headers]
        commits = {each.headers["X-Repo-Commit"] for each in own}
        if commits != {self.commit}:
            told = ", ".join(sorted(commits)) or "none"
            raise self._bad(file, f"the hub answers with another revision ({told}) than {self.commit}")
        etags = {_plain(each.headers["X-Linked-ETag"]) for each in chain if "X-Linked-ETag" in each.headers}
        etags = etags or {_plain(each.headers.get("ETag", "")) for each in own}
        if etags != {file.etag}:
            raise self._bad(file, f"the hub answers with other bytes: ETag {', '.join(sorted(etags))}, not {file.etag}")
        # what stores the bytes has ETags of its own, of which no more is known than that they stay
        place, etag = (file.name, chain[-1].url.host), chain[-1].headers.get("ETag", "")
        if self._seen.setdefault(place, etag) != etag:
            raise self._bad(file, "it changed while it was fetched")

    def _bad(self, file: HubFile, what: str) -> BadDownload:
        return BadDownload(f"{self.model}: {file.name}: {what}; nothing of the answer is used")


class _Broken(Exception):
    """The line broke, or the hub is busy: the same request may succeed later."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def _plain(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')
