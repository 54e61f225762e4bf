"""uvicorn's server for tests in this process: when it has stopped, no connection of it is open."""

import asyncio
import socket

import uvicorn

from splitlearn_client.serving.listening import stop_accepting


class WholeShutdown(uvicorn.Server):
    """Ends what uvicorn leaves: connections that were accepted while it stopped, or whose peers do not read."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await stop_accepting(self.servers)
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # asyncio closes the socket of an aborted transport in its next turn
        await asyncio.sleep(0)
