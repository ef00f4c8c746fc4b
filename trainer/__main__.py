"""`python -m trainer COMMAND` is `trainer COMMAND`."""

import sys

from trainer.cli import main

sys.exit(main())
