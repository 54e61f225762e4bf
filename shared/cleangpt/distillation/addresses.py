"""Addresses of trunks, without torch."""


def address_alone(address: str) -> str:
    """An address for people: what may be behind a # is a secret."""
    return address.partition("#")[0]
