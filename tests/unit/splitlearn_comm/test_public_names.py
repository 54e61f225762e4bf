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
