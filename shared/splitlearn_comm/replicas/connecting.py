"""How the services connect to replicas: with or without TLS, and with the limits of sessions."""

from __future__ import annotations

from functools import partial

from splitlearn_comm.addresses import split_address
from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.options import SESSION_MESSAGE_BYTES
from splitlearn_comm.replicas.replica_set import Connect
from splitlearn_comm.tls import TLSFiles, channel_credentials


def connector(timeout: float, tls: TLSFiles | None) -> Connect:
    """Makes clients of replicas.

    Args:
        timeout: seconds without a message after which a replica counts as frozen.
        tls: this end's files; None connects without TLS.

    Raises:
        BadCertificates: the files cannot be used.
    """
    credentials = None if tls is None else partial(channel_credentials, tls)
    if credentials is not None:
        # what is wrong with the files is said at the start
        credentials()

    def connect(address: str, host: str) -> AsyncGRPCComputeClient:
        # a target of grpc's own resolvers has no other host
        is_resolved = host != address and host != split_address(address)[0]
        return AsyncGRPCComputeClient(
            address,
            timeout=timeout,
            most_received=SESSION_MESSAGE_BYTES,
            credentials=credentials,
            server_name=host if credentials is not None and is_resolved else None,
        )

    return connect
