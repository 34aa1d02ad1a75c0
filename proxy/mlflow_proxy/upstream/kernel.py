"""A connection's state in the kernel, which knows it earlier and in more detail than the event loop.

When the peer closes the connection just as a request is sent, the request was either not read, or read and
perhaps carried out; the event loop cannot tell. A FIN that acknowledges no byte of the request can: the peer
closed before the request arrived, and does not read from a connection that it has closed. (A peer that closed
only its sending half could not answer; RFC 9112 section 9.6.) A reset proves nothing: the kernel ignores its
acknowledgement, and a killed process also resets connections that it has read from. Nor do missing
acknowledgements, which may be late.
"""

import asyncio
import errno
import select
import socket
import struct
import sys
from asyncio.trsock import TransportSocket

_LENGTH = 128
_ACKNOWLEDGED = struct.Struct("=120xQ")
"""Where ``struct tcp_info`` has ``tcpi_bytes_acked`` (linux/tcp.h, since Linux 4.1)."""
_CLOSED, _CLOSE_WAIT = 7, 8
"""The states after everything, and after an end alone (net/tcp_states.h)."""


def is_silent(transport: asyncio.BaseTransport | None) -> bool:
    """Whether there is nothing for the event loop to read: no bytes, no end, no error."""
    connection = _socket(transport)
    if connection is None:
        return False
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return not waiting.poll(0)


def acknowledged(transport: asyncio.BaseTransport | None) -> int | None:
    """Return how many bytes the peer has acknowledged so far, None if unknown.

    A kernel that does not count reports 0, which a connection that has been used cannot have.
    """
    info = _tcp_info(transport)
    return (_ACKNOWLEDGED.unpack(info)[0] or None) if len(info) == _LENGTH else None


def has_ended(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the peer has sent FIN, whatever came after it. Consumes a pending error of the socket.

    The event loop's end of file is not enough: over TLS it may mean close_notify, with no FIN yet.
    """
    connection, info = _socket(transport), _tcp_info(transport)
    if connection is None or not info:
        return False
    if info[0] == _CLOSED:
        # What a reset leaves after an end; without one it would be ECONNRESET (tcp_reset in tcp_input.c).
        return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE
    return info[0] == _CLOSE_WAIT


def _tcp_info(transport: asyncio.BaseTransport | None) -> bytes:
    connection = _socket(transport)
    if connection is None or sys.platform != "linux":
        return b""
    info: bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)
    return info


def _socket(transport: asyncio.BaseTransport | None) -> TransportSocket | None:
    connection = None if transport is None else transport.get_extra_info("socket")
    return connection if connection is not None and connection.fileno() >= 0 else None
