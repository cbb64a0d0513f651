"""``python -m engine.cli``: the command line where its script is not installed."""

import sys

from . import main

sys.exit(main())
