"""What a setting's value may be: checked when it is read, with the remedy in the error."""

import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr, ValidationInfo
from typing_extensions import TypeAliasType

from mlflow_proxy.addresses import literal
from mlflow_proxy.mlflow_api.caller_fields import row_of
from mlflow_proxy.mlflow_api.headers import is_token
from mlflow_proxy.settings.wording import short

# Aliases with names of their own: --help shows them in the place of a type.
Seconds = TypeAliasType("Seconds", Annotated[float, Field(ge=0, allow_inf_nan=False)])
PositiveSeconds = TypeAliasType("PositiveSeconds", Annotated[float, Field(gt=0, allow_inf_nan=False)])


def _origin(value: str) -> str:
    """Check the URL of a workspace and return it without a trailing slash."""
    shown = repr(re.sub(r"(?<=//)[^/@]*@", "...@", value))
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{shown} is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError(f"{shown} is not a URL such as https://my-workspace.cloud.databricks.com")
    only = "only scheme, host, port and path belong here; clients send their own credentials"
    if parts.username is not None or any(c.isspace() for c in value):
        raise ValueError(only)
    if (surplus := _SURPLUS.search(value)) is not None:
        raise ValueError(f"leave out {_named(surplus)}: {only}")
    origin = value.rstrip("/")
    ending = api_ending(origin)
    if ending is not None and any(character.isdigit() for character in ending):
        raise ValueError(f"leave out {ending!r}, which clients add themselves")
    return origin


_SURPLUS = re.compile(r"(?P<shown>\?o=[0-9]+|[?#])(?P<rest>.*)", re.DOTALL)
"""What does not belong to an origin. A browser shows a workspace's own number, which may be repeated to the
operator; anything else may be a secret."""
_API_ENDING = re.compile(r"/(?:ajax-)?api(?:/[0-9][^/]*(?:/.*)?)?\Z")


def _named(surplus: re.Match[str]) -> str:
    shown = surplus["shown"]
    named = repr(shown) if len(shown) > 1 else f"the {shown!r}"
    return f"{named} and what follows" if surplus["rest"] else named


def api_ending(origin: str) -> str | None:
    """Return the end of an upstream's URL that is the beginning of the API's own paths, if any.

    With a version in it, it is certainly a mistake; without one, it may be a gateway's own path.
    """
    found = _API_ENDING.search(urlsplit(origin).path)
    return found[0] if found is not None else None


_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_LONGEST_NAME = 253
"""Characters of a host name (RFC 1035 section 2.3.4, without the final dot)."""


def _listed(what: str, check: Callable[[str], None]) -> BeforeValidator:
    """Return a validator for names, listed or with commas between them, that makes a tuple of them."""

    def validate(value: object) -> tuple[str, ...]:
        found = value.split(",") if isinstance(value, str) else value
        if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
            raise ValueError(f"must be a list of {what}, got {short(value)}")
        names = tuple(each.strip() for each in found)
        for name in names:
            check(name)
        return names

    return BeforeValidator(validate)


def _check_address(host: str) -> None:
    every = "0.0.0.0 is every interface, :: is by IPv6"
    if not host:
        raise ValueError(f"an empty string is no address; {every}")
    if literal(host) is not None:
        return
    shown = short(host)
    if "/" in host or "*" in host:
        raise ValueError(f"{shown} is no address to listen on; {every}")
    if ":" in host:
        raise ValueError(
            f"{shown} has a port, or is no address; give the address alone, and the port as port"
        )


def _check_host(host: str) -> None:
    if not host:
        raise ValueError("an empty string is no host name; leave allowed_hosts out to name none")
    if literal(host) is not None:
        return
    shown = short(host)
    if "/" in host:
        raise ValueError(f"{shown} is a URL; give the name of its host only")
    if "*" in host:
        raise ValueError(f"{shown} has a wildcard, but names are compared whole; give each of them")
    if not host.isascii():
        raise ValueError(f"{shown} is not in ASCII; give the name as clients send it, xn--...")
    if ":" in host:
        raise ValueError(f"{shown} has a port, or is no address; give the host alone, whose ports all count")
    name = host.removesuffix(".")
    if len(name) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{shown} is not a host name such as mlflow-proxy.internal")


def _check_token(name: str) -> None:
    if not is_token(name):
        raise ValueError(f"{short(name)} is no name of a field or cookie; give one such as x-my-trace")
    if "*" in name:  # which a name may have by RFC 9110, and none has
        raise ValueError(f"{short(name)} has a wildcard, but names are compared whole; give each of them")


def _check_neutral(name: str) -> None:
    _check_token(name)
    row = row_of(name)
    if row is not None and row.fixed:
        raise ValueError(f"{name} always counts ({row.why}); leave it out")


Origin = TypeAliasType("Origin", Annotated[str, AfterValidator(_origin)])
Size = TypeAliasType("Size", Annotated[ByteSize, Field(gt=0)])
File = TypeAliasType("File", str)
Addresses = TypeAliasType(
    "Addresses", Annotated[tuple[str, ...], Field(min_length=1), _listed("addresses", _check_address)]
)
OptionalAddresses = TypeAliasType(
    "OptionalAddresses",
    Annotated[
        tuple[str, ...],
        _listed("addresses", _check_address),
        BeforeValidator(lambda value: () if value == "" else value),
    ],
)
HostNames = TypeAliasType("HostNames", Annotated[tuple[str, ...], _listed("host names", _check_host)])
FieldNames = TypeAliasType("FieldNames", Annotated[tuple[str, ...], _listed("field names", _check_neutral)])
CookieNames = TypeAliasType("CookieNames", Annotated[tuple[str, ...], _listed("cookie names", _check_token)])


def key_of(certificate: str) -> Callable[[str, ValidationInfo], str]:
    """Return a validator for the setting of a private key, which belongs to that of a certificate."""

    def validate(key: str, info: ValidationInfo) -> str:
        given = info.data.get(certificate)
        if given and not key:
            raise ValueError(f"{certificate} needs its private key, a PEM file")
        if key and given == "":
            raise ValueError(f"a key is of no use without {certificate}, a PEM file")
        return key

    return validate


def _secret(value: SecretStr) -> SecretStr:
    length = len(value.get_secret_value())
    if 0 < length < _SHORTEST_SECRET:
        raise ValueError(
            f"{length} characters are too few to keep anything secret; "
            f"make {_SHORTEST_SECRET} or more with `openssl rand -hex 32`"
        )
    return value


_SHORTEST_SECRET = 16

Secret = TypeAliasType("Secret", Annotated[SecretStr, AfterValidator(_secret)])
