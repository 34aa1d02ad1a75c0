"""Which requests clients may make with the proxy's credential. Pure.

The proxy's credential can do more than MLflow needs: one call to another API makes a token for it.
"""

import re

from mlflow_proxy.mlflow_api.lenient_paths import has_steps, settles

_MLFLOW = re.compile(r"/(?:ajax-)?api/[0-9]+\.[0-9]+/(?:preview/)?mlflow(?:-artifacts)?/.")


def is_mlflow(target: str) -> bool:
    """Whether a raw request target is of the MLflow API, however a server may read its path.

    A path that has a step up by any reading is not (``..``, ``%2e%2e``, ``..;x``, backslashes), nor is one
    that is encoded over and over.
    """
    path = target.partition("?")[0]
    return bool(_MLFLOW.match(path)) and settles(path) and not has_steps(path)
