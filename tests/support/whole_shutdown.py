"""uvicorn's server for tests in this process: when it has stopped, no connection of it is open."""

import asyncio
import socket

import uvicorn

_TURNS = 4


class WholeShutdown(uvicorn.Server):
    """Ends what uvicorn leaves: connections that were accepted while it stopped, or whose peers do not read."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # asyncio tells the protocol of a connection some turns after it was accepted
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # asyncio closes the socket of an aborted transport in its next turn
        await asyncio.sleep(0)
