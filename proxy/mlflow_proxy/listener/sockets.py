"""What asyncio does not say of a connection, or do with it: the bytes in its socket, and a reset."""

import asyncio
import socket
import struct
import sys
from contextlib import suppress

if sys.platform == "linux":
    import fcntl
    import termios


def unsent(transport: asyncio.Transport) -> int:
    """Return the bytes that wait to be sent, here and in the socket.

    Those in the socket matter: a client on a slow line empties it for minutes before it takes any from here.
    """
    waiting = transport.get_write_buffer_size()
    if sys.platform == "linux":
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.fileno() >= 0:
            waiting += struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    return waiting


def reset(transport: asyncio.BaseTransport) -> None:
    """Abort a connection such that its end cannot be taken for the end of a body that has no length."""
    try:
        connection = transport.get_extra_info("socket")
    except AttributeError:
        return  # the TLS transport of CPython 3.11 when it was closed twice: there is nothing left
    if connection is not None and connection.fileno() >= 0:
        # With a linger time of zero RST is sent, else an orderly end. Some systems refuse it (EINVAL) if the
        # client was quicker.
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
