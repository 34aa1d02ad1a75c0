"""Classification of host names and addresses: loopback, literal, equal. Pure: nothing is resolved."""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
"""Prefixes whose last 32 bits are an IPv4 address (RFC 6052 section 2.1, RFC 8215)."""
_COMPATIBLE = IPv6Network("::/96")
"""The same in its oldest form (RFC 4291 section 2.5.5.1), `::` and `::1` aside."""


def is_loopback(host: str) -> bool:
    """Whether a host name or an address, with or without brackets, is this machine's own."""
    address = literal(host)
    if address is not None:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (mapped or address).is_loopback
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")  # RFC 6761 section 6.3


def canonical(host: str) -> str:
    """Return the one spelling of a host that comes in many: in lower case, without brackets and final dot."""
    address = literal(host)
    if address is None:
        return host.removesuffix(".").lower()
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def literal(host: str) -> Address | None:
    """Read an address as ``getaddrinfo`` would, None if a host is a name.

    That takes IPv4 in one to four parts, each decimal, octal or hexadecimal: ``127.1``, ``0x7f000001``.
    """
    text = host.removesuffix(".").removeprefix("[").removesuffix("]")
    try:
        return ip_address(text)
    except ValueError:
        pass
    if not text.isascii() or any(character.isspace() or character == "\0" for character in text):
        return None  # inet_aton stops at the first space, whatever follows
    try:
        return IPv4Address(socket.inet_aton(text))
    except OSError:
        return None


def effective(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, if it does, else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def in_common(one: str, other: str) -> bool:
    """Whether two hosts to listen on share an address, as far as is known without resolving them."""
    if canonical(one) == canonical(other):
        return True
    first, second = literal(one), literal(other)
    if first is None or second is None:
        known = first or second
        return "localhost" in {canonical(one), canonical(other)} and (
            known is not None and (known.is_loopback or known.is_unspecified)
        )
    return first.version == second.version and (first.is_unspecified or second.is_unspecified)
