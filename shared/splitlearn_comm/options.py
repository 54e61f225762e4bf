"""gRPC settings for both ends in one place, because they only work as a pair.

Names and units are those of grpc's channel arguments (grpc/impl/channel_arg_names.h).
"""

from __future__ import annotations

import json
from typing import Final

from splitlearn_comm.addresses import join_address, split_address
from splitlearn_comm.errors import InvalidAddress
from splitlearn_comm.peer_text import clipped

Options = tuple[tuple[str, int | str], ...]

MAX_MESSAGE_BYTES: Final = 64 * 2**20
# Larger messages are slower, because grpc copies them whole. Callers split long prompts into frames of this size.
CHUNK_BYTES: Final = 2**20

# The window of one stream. The other end may send two windows before this end reads: one while a message is awaited,
# and one after it.
UNREAD_BYTES: Final = 2 * CHUNK_BYTES

# Schemes of grpc's resolvers, by what follows them: hosts with ports, or something else.
_HOST_SCHEMES: Final = frozenset({"dns", "ipv4", "ipv6"})
_PATH_SCHEMES: Final = frozenset({"unix", "unix-abstract", "vsock"})

# The largest message of a session where one end knows that the other sends chunks.
SESSION_MESSAGE_BYTES: Final = 4 * CHUNK_BYTES

# A peer that vanished silently is detected after time + timeout, so that its sessions are freed. A session that waits
# for a reply notices earlier, by a timeout of its own.
_PING_TIMEOUT_MS: Final = 5_000
_KEEPALIVE: Final[Options] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    # without it a ping waits a minute for its acknowledgement, whatever keepalive_timeout_ms says
    ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.http2.max_pings_without_data", 0),
)

# By default grpc lets a stream run 4 MiB ahead of its reader, and more on a faster network: a few unread streams would
# take gigabytes. With fixed windows, sent but unread data is at most two windows per stream. That is enough for the
# next chunk to be in flight while one is processed. A message that is awaited gets a window of its own size, so large
# messages are as fast as with the defaults.
_WINDOW: Final[Options] = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", UNREAD_BYTES),
    ("grpc.http2.max_frame_size", CHUNK_BYTES),
)

_MOST_PENDING: Final = 4096
HANDSHAKE_SECONDS: Final = 10
# Clients of ours ask for health twice a second.
_IDLE_CONNECTION_SECONDS: Final = 60

_SERVER: Final[Options] = (
    *_KEEPALIVE,
    *_WINDOW,
    # Must be below the client's keepalive_time_ms, or the server disconnects the client for pinging too often.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # Streams that are not accepted yet. Beyond 1000, grpc resets some of them, and beyond 3000 all new ones, without a
    # message of ours (random early detection), so a client cannot tell a full server from a dead one. Up to this limit
    # all are told to come back later; beyond it, the loop's refusals would take longer than any client waits.
    ("grpc.server.max_pending_requests", _MOST_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
    # For streams that are not accepted in this many seconds grpc answers CANCELLED in our place, too (30 by default).
    ("grpc.server_max_unrequested_time_in_server", 120),
    # A connection takes a file, and a process has few of those: what connects and does not speak HTTP/2 (two minutes by
    # default), and what has no call (no limit by default), ends.
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", _IDLE_CONNECTION_SECONDS * 1000),
    # With port sharing, a second server on a busy port would start and silently take half of the sessions.
    ("grpc.so_reuseport", 0),
)

_CHANNEL: Final[Options] = (
    *_KEEPALIVE,
    *_WINDOW,
    # Each stream goes to the next address of the name, which spreads sessions over replicas.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # A server that is back is used within a second.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Despite its name, this is how long one connection attempt may take. Where packets are dropped, each attempt
    # begins with a new one, and need not wait for the kernel's retransmissions.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    # Each client has its own connections and its own reconnect backoff.
    ("grpc.use_local_subchannel_pool", 1),
    # Workers are reached directly; a web proxy from the environment would break loopback and swallow streams.
    ("grpc.enable_http_proxy", 0),
)


def server_options(most_received: int = MAX_MESSAGE_BYTES) -> Options:
    """Options of a server that accepts messages of at most `most_received` bytes."""
    return (*_message_size(most_received), *_SERVER)


def channel_options(most_received: int = MAX_MESSAGE_BYTES) -> Options:
    """Options of a client's channel that accepts messages of at most `most_received` bytes."""
    return (*_message_size(most_received), *_CHANNEL)


def channel_target(address: str) -> str:
    """The grpc target for `HOST:PORT`: a DNS name, all of whose addresses are used.

    An address that names one of grpc's own resolvers (`dns:`, `ipv4:`, `ipv6:`, `unix:` and the like) is left as is.

    Raises:
        InvalidAddress: the address has neither form, or an impossible port.
    """
    scheme, colon, rest = address.partition(":")
    if colon and scheme in _PATH_SCHEMES:
        return address
    if colon and scheme in _HOST_SCHEMES:
        for endpoint in rest.rsplit("/", 1)[-1].split(","):
            split_address(endpoint)
        return address
    if "/" in address:
        raise InvalidAddress(f"{clipped(address)} is not HOST:PORT; remove what is before or after it")
    return f"dns:///{join_address(*split_address(address))}"


def _message_size(most_received: int) -> Options:
    # A message is refused as soon as its five-byte prefix is read, compressed or not; versions before 1.84.2 first
    # buffered all of it (grpc/grpc issue 43012).
    return (
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", most_received),
    )
