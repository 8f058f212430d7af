"""`python -m pooler`."""

import sys

from pooler.cli import main

if __name__ == "__main__":
    sys.exit(main())
