"""`python -m launcher` is `gptops`."""

import sys

from launcher.cli import main

sys.exit(main())
