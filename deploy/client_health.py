"""Exit code 0 while the client service in this container answers /ready with 200.

Asks its own port, over HTTPS where the service has a certificate; the certificate is for callers' names of this host.
Not through a proxy: one from the environment cannot reach this container's own loopback.
"""

import os
import ssl
import sys
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

# Below the timeout of the image's HEALTHCHECK, so that the answer says why.
SECONDS = 4.0


def main() -> int:
    """Prints the answer, which `docker inspect` then shows."""
    scheme = "https" if _given("SSL_CERTFILE") else "http"
    url = f"{scheme}://127.0.0.1:{_given('PORT') or '8000'}/ready"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with build_opener(ProxyHandler({}), HTTPSHandler(context=context)).open(url, timeout=SECONDS) as answer:
            print(f"{url}: {answer.status}")
            return 0
    except HTTPError as error:
        print(f"{url}: {error.code} {error.read(1000).decode(errors='replace')}")
    except (URLError, OSError) as error:
        print(f"{url}: {error}")
    return 1


def _given(setting: str) -> str | None:
    return os.environ.get(f"SPLITLEARN_CLIENT_{setting}")


if __name__ == "__main__":
    sys.exit(main())
