"""`python -m vishwamai`: the command, where it is not on the path."""

import sys

from vishwamai.cli import main

sys.exit(main())
