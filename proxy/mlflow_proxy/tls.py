"""TLS contexts for both sides of the proxy, made anew when the files they were made of change.

What belongs here: reading certificates and keys, saying what is wrong with them, noticing that they were
replaced. Connections that are open keep what they began with.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mlflow_proxy.errors import InvalidSettingsError
from mlflow_proxy.files import INTERVAL, Reloaded

Context = Reloaded[ssl.SSLContext]
"""One that follows its files, for new connections. A pair of files that is being written, or does not match,
does not load: the context before stays."""


@asynccontextmanager
async def watching(contexts: Sequence[Context]) -> AsyncIterator[None]:
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


async def _watch(contexts: Sequence[Context]) -> None:
    while True:
        await asyncio.sleep(INTERVAL)
        for context in contexts:
            await asyncio.to_thread(context.refresh)


def for_clients(certificate: str, key: str) -> tuple[ssl.SSLContext, Context]:
    """Return the context to listen with, and what keeps it up to date. Raises InvalidSettingsError.

    A handshake takes the certificate that is current when it begins: the context to listen with only hands
    over to another one. So a pair is replaced as a whole, and never one half of it.
    """

    def make() -> ssl.SSLContext:
        context = _server_context()
        _load_pair(context, ("tls.certificate", certificate), ("tls.key", key))
        return context

    pair = Reloaded([Path(certificate), Path(key)], make, "tls")

    def hand_over(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = pair.current

    listening = _server_context()
    listening.sni_callback = hand_over  # called as well when the client names no server (RFC 6066)
    return listening, pair


def for_upstream(ca_file: str, certificate: str = "", key: str = "") -> Context | None:
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

    files = [Path(file) for file in (ca_file, certificate, key) if file]
    return Reloaded(files, make, "connections")


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
        raise _wrong(key[0], f"{key[1]} is encrypted; store it without a passphrase") from None
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
