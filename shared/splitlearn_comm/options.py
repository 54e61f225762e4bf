"""gRPC settings of both ends in one place, because they only work as a pair.

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
# Larger messages move slower: grpc copies them whole. Callers cut long prompts into frames of this size.
CHUNK_BYTES: Final = 2**20

# The window of one stream. The other end may have sent two of them before anybody here reads: one while a message was
# awaited, and one behind it.
UNREAD_BYTES: Final = 2 * CHUNK_BYTES

# Schemes of grpc's resolvers, with what follows: hosts with ports, or something else.
_HOST_SCHEMES: Final = frozenset({"dns", "ipv4", "ipv6"})
_PATH_SCHEMES: Final = frozenset({"unix", "unix-abstract", "vsock"})

# What a message of a session holds at most where one end knows that the other sends chunks.
SESSION_MESSAGE_BYTES: Final = 4 * CHUNK_BYTES

# A peer that vanished without a word is noticed after time + timeout, so that its sessions are freed.
_KEEPALIVE: Final[Options] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)

# Left to itself, grpc lets a stream run 4 MiB ahead of whoever reads it, and more the faster the network is: some
# streams that are not read would take gigabytes. With windows that stay, what was sent and not read is two windows a
# stream at most. It is enough for the next chunk to be on its way while one is worked on. A message that is awaited
# gets a window of its own size, so that large ones are as fast as before.
_WINDOW: Final[Options] = (
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", UNREAD_BYTES),
    ("grpc.http2.max_frame_size", CHUNK_BYTES),
)

_MOST_PENDING: Final = 4096

_SERVER: Final[Options] = (
    *_KEEPALIVE,
    *_WINDOW,
    # Must be below the client's keepalive_time_ms, or the server hangs up on it for pinging too often.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    # A client whose connection ends this way looks the name up again, and so finds new replicas. Streams that are
    # open keep the old connection for as long as they last.
    ("grpc.max_connection_age_ms", 30_000),
    # Streams that nobody looked at yet. grpc resets some of them once there are 1000, and all that come beyond 3000,
    # without a word of ours (random early detection): whoever asked then cannot tell a full server from a dead one. Up
    # to here all are told to come later; beyond, the loop would take longer for its refusals than anybody waits.
    ("grpc.server.max_pending_requests", _MOST_PENDING),
    ("grpc.server.max_pending_requests_hard_limit", _MOST_PENDING),
    # With port sharing, a second server on a busy port would start and silently take half of the sessions.
    ("grpc.so_reuseport", 0),
)

_CHANNEL: Final[Options] = (
    *_KEEPALIVE,
    *_WINDOW,
    # Each stream goes to the next address of the name: that is how sessions spread over replicas.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Despite its name, the time that one connection attempt may take.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # A client's connections, and how long it waits before it tries again, are its own.
    ("grpc.use_local_subchannel_pool", 1),
    # Workers are reached directly; a web proxy from the environment would break loopback and swallow streams.
    ("grpc.enable_http_proxy", 0),
)


def server_options(most_received: int = MAX_MESSAGE_BYTES) -> Options:
    """Of a server that takes messages of at most so many bytes."""
    return (*_message_size(most_received), *_SERVER)


def channel_options(most_received: int = MAX_MESSAGE_BYTES) -> Options:
    """Of a client's channel that takes messages of at most so many bytes."""
    return (*_message_size(most_received), *_CHANNEL)


def channel_target(address: str) -> str:
    """What grpc connects to for `HOST:PORT`: a DNS name whose addresses are all used.

    An address that names one of grpc's own resolvers (`dns:`, `ipv4:`, `ipv6:`, `unix:` and the like) stays as it is.

    Raises:
        InvalidAddress: neither, or a port that there cannot be.
    """
    scheme, colon, rest = address.partition(":")
    if colon and scheme in _PATH_SCHEMES:
        return address
    if colon and scheme in _HOST_SCHEMES:
        for endpoint in rest.rsplit("/", 1)[-1].split(","):
            split_address(endpoint)
        return address
    if "/" in address:
        raise InvalidAddress(f"{clipped(address)} is not HOST:PORT; leave out what stands before the host or behind it")
    return f"dns:///{join_address(*split_address(address))}"


def _message_size(most_received: int) -> Options:
    # A message is refused as soon as the five bytes before it are read, compressed or not; versions before 1.84.2
    # held it whole first (grpc/grpc issue 43012).
    return (
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", most_received),
    )
