import subprocess
import sys

import splitlearn_comm


def test_the_public_surface_is_this() -> None:
    assert sorted(splitlearn_comm.__all__) == [
        "AsyncGRPCComputeClient",
        "AsyncGRPCComputeServer",
        "CHUNK_BYTES",
        "Cancelled",
        "ClientStream",
        "CommError",
        "ComputeFunction",
        "FingerprintMismatch",
        "Frame",
        "InvalidRequest",
        "InvalidTensor",
        "MAX_MESSAGE_BYTES",
        "ModelComputeFunction",
        "NotServed",
        "Overloaded",
        "PortUnavailable",
        "PositionNotReached",
        "RemoteFailure",
        "Reply",
        "ServiceInfo",
        "Session",
        "SessionHost",
        "SessionOpening",
        "SessionTooLong",
        "TensorCodec",
        "TimedOut",
        "Unreachable",
        "WireObserver",
        "reached_after",
    ]
    assert all(hasattr(splitlearn_comm, name) for name in splitlearn_comm.__all__)


def test_importing_it_loads_no_model_library() -> None:
    heavy = {"transformers", "splitlearn", "llm_sepweight", "fastapi"}
    script = f"import sys, splitlearn_comm; print(sorted({heavy!r} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"
