"""`python -m spnpolicy` is the command `spnpolicy`."""

import sys

from spnpolicy.cli import main

if __name__ == "__main__":
    sys.exit(main())
