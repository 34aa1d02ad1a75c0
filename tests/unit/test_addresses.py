"""Which hosts to listen on have an address in common."""

import pytest

from mlflow_proxy.addresses import in_common


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "192.0.2.1", True),
        ("::", "::1", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("LOCALHOST.", "localhost", True),
        ("localhost", "0.0.0.0", True),
        ("proxy.internal", "Proxy.internal", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "192.0.2.1", False),
        ("127.0.0.1", "::1", False),  # a listener for IPv6 takes IPv6 alone
        ("::", "127.0.0.1", False),
        ("::1", "0.0.0.0", False),
        ("localhost", "192.0.2.1", False),
        ("proxy.internal", "127.0.0.1", False),
        ("proxy.internal", "localhost", False),
    ],
)
def test_hosts_in_common(one: str, other: str, common: bool) -> None:
    assert in_common(one, other) is common
    assert in_common(other, one) is common
