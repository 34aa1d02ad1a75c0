"""Ports for programs that take a number only: what listens in a test itself takes port 0 instead.

The kernel gives a port that was free a moment ago to the next who asks for any, a server of another test say,
which then answers in the program's place. So these are from below its range (32768 to 60999 on Linux, see
``ip_local_port_range``), and each of the processes that run tests has its own thousand.
"""

import itertools
import os
import socket

_FIRST, _EACH, _PROCESSES = 20_000, 1_000, 12
_process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PROCESSES
# From another one on in each process: what a test starts may run tests' helpers itself.
_next = itertools.count(os.getpid())


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nothing listens on, of those that are given out once in a while only."""
    for number in itertools.islice(_next, _EACH):
        port = _FIRST + _process * _EACH + number % _EACH
        with socket.socket() as free:
            try:
                free.bind((address, port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"none of the ports from {_FIRST + _process * _EACH} on is free")
