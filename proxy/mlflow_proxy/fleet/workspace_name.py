"""What a fleet knows its workspace by, however members spell its URL: pure."""

from yarl import URL

from mlflow_proxy.addresses import canonical

_DEFAULT_PORTS = {"http": 80, "https": 443}


def workspace_name(upstream: str) -> str:
    """Return the one spelling of a workspace's URL that comes in many: those that lead to the same place.

    Scheme and host in lower case, the host in ASCII and without its final dot, an address in its shortest
    form, no default port, the path normalised (RFC 3986 section 6.2) and without the final slash. A URL that
    is spelled so already is returned as it is. For what is hashed only: calls go where the operator says.
    """
    url = URL(upstream)
    scheme, port = url.scheme, url.explicit_port
    host = canonical(url.raw_host or "")
    shown = f"[{host}]" if ":" in host else host
    named = "" if port in {None, _DEFAULT_PORTS.get(scheme)} else f":{port}"
    return f"{scheme}://{shown}{named}{url.raw_path.rstrip('/')}"
