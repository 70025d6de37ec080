"""``python3 -m gatefuse.bench.gpu``: an unattended run on a GPU."""

import sys

from gatefuse.bench.gpu.run import main

if __name__ == "__main__":
    sys.exit(main())
