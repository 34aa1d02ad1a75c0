"""The fields by which a reverse proxy says for whom, and under which name, it was asked. Pure.

An upstream on the same machine would take every client for a local one without them. They are said to the
upstream and never believed here: what clients say of themselves is passed on in front of what was seen.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

FORWARDED = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"})
"""The fields that are added to, in lower case: RFC 7239, and its forerunners that servers know."""

_UNKNOWN = "unknown"
"""Stands for a client without an address (RFC 7239 section 6.2); no server takes it for a local one."""

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PAIR = rf'{_WORD}=(?:{_WORD}|"(?:[^"\\]|\\.)*+")'
_ELEMENT = rf"(?:{_PAIR})?(?:;(?:{_PAIR})?)*+"
_LIST = re.compile(rf"{_ELEMENT}(?:[ \t]*+,[ \t]*+{_ELEMENT})*+")
"""RFC 7239 section 4."""


def forwarded(
    fields: Iterable[tuple[str, str]], peer: str | None, scheme: str, host: str | None
) -> list[tuple[str, str]]:
    """Return a request's end-to-end fields, with what this proxy saw of the client appended.

    ``peer`` is the address at the other end of the connection, None or empty if it has none; ``scheme`` is
    what the client used, ``host`` its ``Host``. Each field is one, however many the client sent.
    ``Forwarded`` is there only if the client sent it; what is malformed of it is dropped, since it might
    swallow what is appended (an open quote).
    """
    kept: list[tuple[str, str]] = []
    said: dict[str, list[str]] = {}
    for name, value in fields:
        lower = name.lower()
        if lower not in FORWARDED:
            kept.append((name, value))
        elif value.strip(" \t"):
            said.setdefault(lower, []).append(value.strip(" \t"))
    node = _node(peer or "")
    kept.append(("X-Forwarded-For", ", ".join((*said.get("x-forwarded-for", ()), node))))
    kept.append(("X-Forwarded-Proto", ", ".join((*said.get("x-forwarded-proto", ()), scheme))))
    hosts = (*said.get("x-forwarded-host", ()), *((host,) if host else ()))
    if hosts:
        kept.append(("X-Forwarded-Host", ", ".join(hosts)))
    if "forwarded" in said:
        before = ", ".join(said["forwarded"])
        whole = (before,) if _LIST.fullmatch(before) else ()
        kept.append(("Forwarded", ", ".join((*whole, _element(node, scheme, host)))))
    return kept


def _element(node: str, scheme: str, host: str | None) -> str:
    """Return what RFC 7239 has for one hop."""
    named = f';host="{_escaped(host)}"' if host else ""
    return f"for={_quoted(node)}{named};proto={scheme}"


def _quoted(node: str) -> str:
    return f'"[{node}]"' if ":" in node else node


def _escaped(text: str) -> str:
    return re.sub(r'(["\\])', r"\\\1", text)


@lru_cache(maxsize=1024)
def _node(peer: str) -> str:
    """Return an address as others write it: without the zone, which means something here only."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return _UNKNOWN
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
