"""`python -m vishwamai.cli`: the same as `python -m vishwamai`."""

import sys

from vishwamai.cli import main

sys.exit(main())
