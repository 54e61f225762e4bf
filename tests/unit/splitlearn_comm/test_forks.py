"""What happens behind a real os.fork, in processes of their own: no call may wait for a thread that is not there."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import asyncio, gc, json, os, sys, threading
import torch
from splitlearn_comm import AsyncGRPCComputeClient, AsyncGRPCComputeServer, GRPCComputeClient, GRPCComputeServer
from splitlearn_comm import loop_thread
from splitlearn_comm.core import ModelComputeFunction
from splitlearn_comm.testing import EchoSessionHost

def server():
    return GRPCComputeServer(ModelComputeFunction(torch.nn.Identity()), host="127.0.0.1", port=0)

def works():
    with server() as own, GRPCComputeClient(f"127.0.0.1:{own.port}") as client:
        return client.compute(torch.ones(2)).tolist() == [1, 1]

def in_child(function, leave):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, json.dumps(function()).encode())
        leave(0)
    os.close(writing)
    said = os.read(reading, 100_000)
    return {"said": json.loads(said or "null"), "status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}

report = {"before use": in_child(works, os._exit)}

ours = server()
ours.start()
client = GRPCComputeClient(f"127.0.0.1:{ours.port}", timeout=5)
client.compute(torch.ones(2))

async def stream():
    async with AsyncGRPCComputeClient(client._client.target) as own:
        await own.connect()

def with_client():
    with client:
        client.compute(torch.ones(2))

CALLS = {
    "compute": lambda: client.compute(torch.ones(2)),
    "connect": client.connect,
    "health_check": client.health_check,
    "get_service_info": client.get_service_info,
    "context": with_client,
    "close": client.close,
    "start": server().start,
    "stop": ours.stop,
    "wait": ours.wait_for_termination,
    "new client": lambda: GRPCComputeClient("127.0.0.1:1").compute(torch.ones(2)),
    "async client": lambda: asyncio.run(stream()),
    "async server": lambda: asyncio.run(AsyncGRPCComputeServer(session_host=EchoSessionHost()).start()),
}

def everything():
    said = {}
    for name, call in CALLS.items():
        try:
            said[name] = repr(call())
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    said["trouble"] = client.trouble
    for name in ("client", "ours"):
        del globals()[name]
    CALLS.clear()
    gc.collect()
    return said

report["by os._exit"] = in_child(everything, os._exit)
# a thread of the parent is about to start the loop, and holds its lock
loop_thread._starting.acquire()
report["by sys.exit"] = in_child(everything, sys.exit)
loop_thread._starting.release()
report["parent"] = client.compute(torch.ones(2)).tolist()
client.close()
ours.stop()
print(json.dumps(report))
"""


def test_a_forked_process_is_told_so_by_every_call_and_ends_cleanly(tmp_path: Path) -> None:

    script = tmp_path / "forking.py"
    script.write_text(SCRIPT)

    # the timeout is for the case that something waits for ever
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, check=False)

    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert report["before use"] == {"said": True, "status": 0}
    assert report["parent"] == [1, 1]
    for way in ("by os._exit", "by sys.exit"):
        assert report[way]["status"] == 0
        said = report[way]["said"]
        assert said["close"] == said["stop"] == "None"
        assert said["connect"] == said["health_check"] == "False"
        others = {name: text for name, text in said.items() if name not in {"close", "stop", "connect", "health_check"}}
        for name, text in others.items():
            assert "gRPC was used in the process that this one was forked from" in text, name
            assert "'spawn' or 'forkserver'" in text, name
            assert name == "trouble" or text.startswith("Forked: "), name


ASYNC_SCRIPT = """
import asyncio, json, os, sys
import torch
from splitlearn_comm import Frame, SessionOpening
from splitlearn_comm.core import CompressedTensorCodec, ModelComputeFunction
from splitlearn_comm.testing import EchoSessionHost, loopback

LARGE = torch.ones(512, 1024)

async def calls(server, client, stream):
    async def leave_by_error():
        async with stream:
            await stream.receive()
    return {
        "step": stream.step(Frame(1, torch.ones(1, 2))),
        "large": stream.step(Frame(1, LARGE)),
        "receive": stream.receive(),
        "finish": stream.finish([b"one"]),
        "context": leave_by_error(),
        "compute": client.compute(torch.ones(2)),
        "large compute": client.compute(LARGE),
        "health": client.health(),
        "close": stream.close(),
        "close client": client.close(),
        "stop": server.stop(),
    }

async def main():
    host = EchoSessionHost()
    function = ModelComputeFunction(torch.nn.Identity())
    async with loopback(session_host=host, compute_fn=function) as (server, client):
        client._codec = CompressedTensorCodec()
        # large tensors are encoded on threads, which are there by now and will not be in the child
        await client.compute(LARGE)
        stream = client.stream(SessionOpening("one", "echo", 1000, codec="zlib"))
        await stream.step(Frame(0, torch.ones(1, 2)))
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            said = {}
            for name, call in (await calls(server, client, stream)).items():
                try:
                    # the event loop is the parent's, and nothing in it may be waited for
                    call.send(None)
                    said[name] = "waits"
                except StopIteration as done:
                    said[name] = repr(done.value)
                except Exception as error:
                    said[name] = f"{type(error).__name__}: {error}"
            stream.cancel()
            os.write(writing, json.dumps(said).encode())
            os._exit(0)
        os.close(writing)
        said = os.read(reading, 100_000)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        rows = (await stream.step(Frame(0, torch.ones(1, 2)))).frame.rows
        await stream.close()
        print(json.dumps({"said": json.loads(said), "status": status, "parent": rows.tolist()}))

asyncio.run(main())
"""


def test_a_stream_that_was_open_at_a_fork_says_so_in_the_child_and_lives_on_in_the_parent(tmp_path: Path) -> None:
    script = tmp_path / "forking_stream.py"
    script.write_text(ASYNC_SCRIPT)

    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100, check=False)

    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout.splitlines()[-1])
    assert report["status"] == 0
    assert report["parent"] == [[2, 2]]
    said = report["said"]
    assert [said.pop(name) for name in ("close", "close client", "stop")] == ["None"] * 3
    for name, text in said.items():
        assert text.startswith("Forked: gRPC was used in the process that this one was forked from"), name
