"""Exit code 0 while the trunk in this container says over grpc.health.v1 that it serves.

Asks its health port, which speaks no TLS; without one, its main port.

Asks with grpc alone: importing one of our packages imports torch, which takes seconds, and this runs every few.
"""

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# Below the timeout of the image's HEALTHCHECK, so that the answer says why.
SECONDS = 3.0


def main() -> int:
    """Prints the status, which `docker inspect` then shows."""
    address = f"127.0.0.1:{_given('HEALTH_PORT') or _given('PORT') or '50051'}"
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            print(f"{address}: {error.code().name} {error.details()}")
            return 1
    print(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _given(setting: str) -> str | None:
    return os.environ.get(f"SPLITLEARN_TRUNK_{setting}")


if __name__ == "__main__":
    sys.exit(main())
