"""What stands before the path of an endpoint: every spelling of one API, as a product.

Real clients and servers use two roots (``/ajax-api`` is the web interface's), versions from 1.2 to 5.0, and
``preview/`` or not (mlflow 1.x); which endpoint is served under which of them differs from server to server.
"""

import re
from itertools import product

_ROOTS = ("/api/", "/ajax-api/")
_PREVIEWS = ("", "preview/")

API_PREFIXES = tuple(f"{root}2.0/{preview}mlflow/" for root, preview in product(_ROOTS, _PREVIEWS))
"""Where the registry's endpoints are documented: under these their answers may be shared."""

ANY_API = rf"(?:{'|'.join(_ROOTS)})[0-9]+\.[0-9]+/(?:{'|'.join(_PREVIEWS)})"
"""A regular expression for the prefix of any API, in any version."""
_MLFLOW = re.compile(f"{ANY_API}mlflow/")


def below_mlflow(path: str) -> str | None:
    """Return the part of a path that names an endpoint of MLflow's API in any version; None if none does."""
    prefix = _MLFLOW.match(path)
    return path[prefix.end() :] if prefix is not None else None
