"""``python -m mlflow_proxy`` is ``mlflow-proxy``."""

import sys

from mlflow_proxy.cli import main

sys.exit(main())
