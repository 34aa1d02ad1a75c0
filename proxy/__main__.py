"""``python -m proxy`` is ``mlflow-proxy``."""

import sys

from proxy.cli import main

sys.exit(main())
