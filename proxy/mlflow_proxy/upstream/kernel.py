"""What the kernel knows of a connection before, and beyond what, the event loop does.

A request that goes out just as the other side closes the connection was not read, or was read and perhaps
carried out; to the event loop both look the same. What tells them apart is an end (FIN) that acknowledges no
byte of the request: it was sent before the request came, and who has closed a connection reads no more from
it. Whoever closes only the half that he sends on, and reads on, could not answer (RFC 9112 section 9.6).
A reset proves nothing: its acknowledgement is not taken, and a process that is killed resets what it has
begun to read. Nor does silence: acknowledgements may be late.
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
    """Whether nothing lies there for the event loop to read, neither bytes nor an end nor an error."""
    connection = _socket(transport)
    if connection is None:
        return False
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return not waiting.poll(0)


def acknowledged(transport: asyncio.BaseTransport | None) -> int | None:
    """Return how many bytes the other side has acknowledged so far, None if that is not known.

    A kernel that does not count says 0, which is no number for a connection that has been used.
    """
    info = _tcp_info(transport)
    return (_ACKNOWLEDGED.unpack(info)[0] or None) if len(info) == _LENGTH else None


def has_ended(transport: asyncio.BaseTransport | None) -> bool:
    """Whether the other side has sent an end, whatever came after that. Takes an error that is pending.

    The event loop hears of an end after close_notify, too, when there may be none yet and TLS is read on.
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
