"""What tests of the wire send through the proxy, and how they read fields."""

from tests.integration.support import Head

BLOCK = bytes(1 << 16)
ANSWER = b'{"registered_model": {"name": "m"}}'


def lower_names(fields: Head) -> Head:
    return [(name.lower(), value) for name, value in fields]
