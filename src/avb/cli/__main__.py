"""``python -m avb.cli`` is ``avb``."""

import sys

from avb.cli import main

sys.exit(main())
