"""Opens sessions in bottom, trunk and top for a tenant, and turns what goes wrong into errors of requests."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from splitlearn.errors import BadRows, ContextExceeded, EngineFull, SplitError
from splitlearn_client.block_hasher import BlockHasher
from splitlearn_client.errors import BadRequest, BrokenNumbers, PromptTooLong, RequestError, TooBusy, from_wire
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.metrics import ClientMetrics
from splitlearn_client.report import Report
from splitlearn_client.session_stream import SessionStream
from splitlearn_client.split_session import SplitSession, open_split_session
from splitlearn_client.tenant_ids import TenantIds
from splitlearn_client.trunk_connection import TrunkConnection
from splitlearn_comm import CommError


class Sessions:
    """Of all requests, whatever they are for.

    Args:
        block_hasher: hashes blocks of prompts; None caches nothing.
    """

    def __init__(self, connection: TrunkConnection, metrics: ClientMetrics, block_hasher: BlockHasher | None) -> None:
        self.metrics = metrics
        self._connection = connection
        self._block_hasher = block_hasher
        self._tenant_ids = TenantIds()

    @property
    def local_parts(self) -> LocalParts:
        """Bottom and top. Raises TrunkNotReady."""
        return self._connection.local_parts

    @asynccontextmanager
    async def opened(
        self, ids: Sequence[int], most_rows: int, tenant: str, report: Report, *, reuses: bool = True, salt: str = ""
    ) -> AsyncIterator[SplitSession]:
        """A session that holds at most so many rows and begins with `ids`.

        Args:
            tenant: the name of whose request it is.
            reuses: whether it may begin with rows that are cached.
            salt: it shares cached rows only with sessions of this salt.

        Raises:
            RequestError: no trunk is ready, or what is done with the session fails.
        """
        hashes = partial(self._block_hashes, tenant=tenant, salt=salt)
        tenant_id = self._tenant_ids.id_of(tenant)
        parts = self._connection.local_parts
        opening = open_split_session(self._connection, parts, ids, most_rows, hashes, tenant_id, report, reuses=reuses)
        try:
            async with opening as session:
                yield session
        except CommError as error:
            raise from_wire(error, begun=report.first_token is not None) from error
        except (BadRows, ContextExceeded, EngineFull) as error:
            raise _from_parts(error, begun=report.first_token is not None) from error

    def observe(self, report: Report, stream: SessionStream) -> None:
        """Counts what went over the wire since the last call."""
        if report.round_trip is not None:
            self.metrics.round_trip.observe(report.round_trip)
        self.metrics.wire(
            stream.codec,
            sent=stream.bytes_sent - report.wire_bytes_sent,
            received=stream.bytes_received - report.wire_bytes_received,
        )
        report.wire_bytes_sent = stream.bytes_sent
        report.wire_bytes_received = stream.bytes_received

    def _block_hashes(self, ids: Sequence[int], codec: str, *, tenant: str, salt: str) -> tuple[bytes, ...]:
        return () if self._block_hasher is None else self._block_hasher.hashes(ids, tenant, salt, codec)


def _from_parts(error: SplitError, *, begun: bool) -> RequestError:
    """The request's error for one of the bottom or top engine. `begun`: a token was chosen already."""
    if isinstance(error, EngineFull):
        return TooBusy(str(error), retry_after=error.retry_after)
    if isinstance(error, ContextExceeded):
        return PromptTooLong(str(error))
    if begun:
        return BrokenNumbers(f"the model chose a token that it has no embedding for: {error}")
    return BadRequest(f"the model cannot take this prompt: {error}")
