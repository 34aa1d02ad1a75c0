"""TLS contexts for both sides of the proxy, made anew when the files they were made of change.

What belongs here: reading certificates and keys, saying what is wrong with them, noticing that they were
replaced. Connections that are open keep what they began with.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mlflow_proxy.errors import InvalidSettingsError

log = structlog.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at the files."""

_Seen = tuple[tuple[int, int, int] | None, ...]


class Reloaded:
    """A context that follows its files; ``current`` is for new connections.

    ``make`` reads ``files`` (paths; empty ones are left out) and raises InvalidSettingsError, which the
    first time is the caller's. Later the context before stays, so that a pair of files that is being
    written, or does not match, harms nobody.
    """

    def __init__(self, files: Iterable[str], make: Callable[[], ssl.SSLContext]) -> None:
        self._files = [file for file in files if file]
        self._make = make
        # Looked at before they are read: what changes in between is a change.
        self._seen = self._look()
        self._complained = False
        self.current = make()

    def refresh(self) -> None:
        """Take the files over if they have changed, at the latest once they can be. Blocks on the disk."""
        seen = self._look()
        if seen == self._seen:
            self._complained = False
            return
        try:
            self.current = self._make()
        except InvalidSettingsError as problem:
            if not self._complained:
                log.error("changed TLS files are not taken over; the old ones stay", reason=str(problem))
            self._complained = True
        else:
            self._seen = seen
            log.info("changed TLS files taken over", files=self._files)
            self._complained = False

    def _look(self) -> _Seen:
        return tuple(_state(file) for file in self._files)


def _state(file: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    # With the inode: files are replaced by renaming, and links turned to other files, of any age.
    return status.st_mtime_ns, status.st_size, status.st_ino


@asynccontextmanager
async def watching(contexts: Sequence[Reloaded]) -> AsyncIterator[None]:
    """Let contexts follow their files for as long as this lasts."""
    if not contexts:
        yield
        return
    task = asyncio.create_task(_watch(contexts))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch(contexts: Sequence[Reloaded]) -> None:
    while True:
        await asyncio.sleep(INTERVAL)
        for context in contexts:
            await asyncio.to_thread(context.refresh)


def for_clients(certificate: str, key: str) -> tuple[ssl.SSLContext, Reloaded]:
    """Return the context to listen with, and what keeps it up to date. Raises InvalidSettingsError.

    A handshake takes the certificate that is current when it begins: the context to listen with only hands
    over to another one. So a pair is replaced as a whole, and never one half of it.
    """

    def make() -> ssl.SSLContext:
        context = _server_context()
        _load_pair(context, ("tls.certificate", certificate), ("tls.key", key))
        return context

    pair = Reloaded((certificate, key), make)

    def hand_over(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = pair.current

    listening = _server_context()
    listening.sni_callback = hand_over  # called as well when the client names no server (RFC 6066)
    return listening, pair


def for_upstream(ca_file: str, certificate: str = "", key: str = "") -> Reloaded | None:
    """Return the context to call others with, None if these settings ask for nothing special.

    Trusts the system's CAs and those in ``ca_file``. Raises InvalidSettingsError.
    """
    if not ca_file and not certificate:
        return None

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if ca_file:
            _load_authorities(context, ca_file)
        if certificate:
            names = "connections.client_certificate", "connections.client_key"
            _load_pair(context, (names[0], certificate), (names[1], key))
        return context

    return Reloaded((ca_file, certificate, key), make)


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load_authorities(context: ssl.SSLContext, file: str) -> None:
    name = "connections.ca_file"
    try:
        x509.load_pem_x509_certificates(_read(name, file))
        context.load_verify_locations(cafile=file)
    except (ValueError, OSError):
        raise _wrong(name, f"{file} holds no certificates in PEM form") from None


def _load_pair(context: ssl.SSLContext, certificate: tuple[str, str], key: tuple[str, str]) -> None:
    """Load two PEM files, each with the name of its setting."""
    try:
        x509.load_pem_x509_certificates(_read(*certificate))
    except ValueError:
        raise _wrong(certificate[0], f"{certificate[1]} holds no certificate in PEM form") from None
    try:
        load_pem_private_key(_read(*key), None)
    except TypeError:
        raise _wrong(key[0], f"{key[1]} is encrypted, and nobody is there to ask; store it plain") from None
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong(key[0], f"{key[1]} holds no private key in PEM form") from None
    try:
        # The empty password keeps OpenSSL from asking for one, if the file was changed just now.
        context.load_cert_chain(certificate[1], key[1], password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"{key[1]} does not belong to the first certificate in {certificate[1]}"
        else:
            problem = f"{certificate[1]} and {key[1]} are of no use: {error.reason}"
        raise _wrong(key[0], problem) from None
    except OSError as error:
        raise _wrong(certificate[0], f"cannot be read ({error.strerror})") from None


def _read(name: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise _wrong(name, f"{file} cannot be read ({error.strerror})") from None


def _wrong(name: str, problem: str) -> InvalidSettingsError:
    return InvalidSettingsError(f"{name}: {problem}; give --{name.replace('_', '-')} a readable PEM file")
