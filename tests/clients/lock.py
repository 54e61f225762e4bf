"""`python -m tests.clients.lock [NAME...]`: locks the newest versions of other people's programs."""

import argparse
import datetime

from tests.clients.environments import ALL


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", metavar="NAME", choices=[[], *(each.name for each in ALL)])
    chosen = arguments.parse_args().names
    for environment in ALL:
        if not chosen or environment.name in chosen:
            environment.make_lock(datetime.datetime.now(datetime.UTC).date())
            print(environment.lock)


if __name__ == "__main__":
    main()
