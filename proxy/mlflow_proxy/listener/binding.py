"""Sockets that listen on the addresses of a setting: which ones, on which port, and why one cannot be had.

What belongs here: what asyncio does where it is given a host and a port, for several hosts as for one. Each
address is listened on as it is named: ``::`` is IPv6 only, as with nginx and asyncio, whatever the system's
default is, so that ``0.0.0.0`` beside it is free to be named as well.
"""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from mlflow_proxy.addresses import literal
from mlflow_proxy.errors import InvalidSettingsError

BACKLOG = 1024
"""Connections that wait in the system to be accepted."""
_TRIES = 10
"""How often a port that is free on one address may turn out to be taken on the next, if any will do."""
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""What the system says of a family that it does not have: IPv6 is switched off in many containers."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One address to listen on; ``family`` and ``address`` are for a socket.

    ``dispensable`` is one of several addresses of a name.
    """

    host: str
    family: socket.AddressFamily
    address: tuple[Any, ...]
    dispensable: bool


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why an address cannot be listened on."""

    host: str
    error: OSError


async def listen(hosts: Sequence[str], port: int, section: str = "") -> list[socket.socket]:
    """Return sockets that listen on all these addresses and names, in their order.

    They have one port, whichever is free if it is 0. ``section`` is that of the settings ``host`` and
    ``port``, "admin." or none. Raises InvalidSettingsError.
    """
    wanted = await _wanted(hosts, section)
    tries = 1 if port else _TRIES
    while True:
        tries -= 1
        sockets, problem = _bound(wanted, port)
        if problem is None:
            return sockets
        for each in sockets:
            each.close()
        # The free port chosen on the first address may be in use on another one: try again.
        if not (problem.error.errno == errno.EADDRINUSE and sockets and tries):
            raise _cannot_listen(problem.host, port, problem.error, section)


async def _wanted(hosts: Sequence[str], section: str) -> list[_Wanted]:
    """Resolve names. What is named twice, or is part of all addresses of its family, is wanted once."""
    loop = asyncio.get_running_loop()
    found: dict[tuple[object, ...], _Wanted] = {}
    for host in hosts:
        try:
            infos = await loop.getaddrinfo(
                host.removeprefix("[").removesuffix("]"),
                None,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )
        except OSError as error:
            raise _cannot_listen(host, 0, error, section) from None
        for family, *_, address in infos:
            several = literal(host) is None and len(infos) > 1
            found.setdefault(
                (family, address[0], *address[2:]), _Wanted(host, family, address, dispensable=several)
            )
    every = {each.family for each in found.values() if _is_wildcard(each)}
    return [each for each in found.values() if _is_wildcard(each) or each.family not in every]


def _is_wildcard(wanted: _Wanted) -> bool:
    return ip_address(wanted.address[0].partition("%")[0]).is_unspecified


def _bound(wanted: Sequence[_Wanted], port: int) -> tuple[list[socket.socket], _Problem | None]:
    """Return a socket for each address, and why not for all of them if so."""
    sockets: list[socket.socket] = []
    missing: _Problem | None = None
    for each in wanted:
        try:
            sockets.append(_listening(each, sockets[0].getsockname()[1] if sockets else port))
        except OSError as error:
            missing = _Problem(each.host, error)
            if not (each.dispensable and error.errno in _ABSENT):
                return sockets, missing
    return sockets, None if sockets else missing


def _listening(wanted: _Wanted, port: int) -> socket.socket:
    listening = socket.socket(wanted.family, socket.SOCK_STREAM)
    try:
        if os.name == "posix" and sys.platform != "cygwin":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        if wanted.family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
        listening.setblocking(False)
        address, _, *scope = wanted.address
        listening.bind((address, port, *scope))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _cannot_listen(host: str, port: int, error: OSError, section: str) -> InvalidSettingsError:
    """Say in one line why the address cannot be had that ``host`` and ``port`` of a section name."""
    if error.errno == errno.EADDRINUSE:
        return InvalidSettingsError(
            f"{section}port: {port} is already in use on {host}; choose another --{section}port"
        )
    if error.errno == errno.EACCES:
        return InvalidSettingsError(
            f"{section}port: not allowed to listen on {port}; choose a --{section}port from 1024 up"
        )
    return InvalidSettingsError(
        f"{section}host: cannot listen on {host}: {error.strerror}; choose another --{section}host"
    )
