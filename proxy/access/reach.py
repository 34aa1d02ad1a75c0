"""What clients may ask for in the name of a credential that is not theirs. Pure.

The proxy's credential can do more than MLflow needs: one call to another API makes a token for it.
"""

import re
from urllib.parse import unquote

_MLFLOW = re.compile(r"/(?:ajax-)?api/\d+\.\d+/(?:preview/)?mlflow(?:-artifacts)?/.")
_DECODINGS = 4
"""How often a path may be encoded over again and still be understood."""


def is_mlflow(target: str) -> bool:
    """Whether a raw request target is of the MLflow API, however a server may read its path.

    Servers differ in what they decode, and in what they take for a step up: ``..``, ``%2e%2e``, ``..;x``,
    backslashes. A path with any of them is not.
    """
    path = target.partition("?")[0]
    if not _MLFLOW.match(path):
        return False
    for _ in range(_DECODINGS):
        segments = re.split(r"[/\\]", path)
        if any(segment.partition(";")[0].strip() in {".", ".."} for segment in segments):
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False
