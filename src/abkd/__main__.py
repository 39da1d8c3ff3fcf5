"""`python -m abkd`: the command line."""

import sys

from abkd.cli import main

sys.exit(main())
