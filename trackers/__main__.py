"""`python -m trackers`: the server side."""

import sys

from trackers.server import main

sys.exit(main(sys.argv[1:]))
