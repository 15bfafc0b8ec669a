"""`python -m trivium` is `trivium`."""

import sys

from trivium.cli import main

sys.exit(main())
