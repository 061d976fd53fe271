"""Times smoothxent beside PyTorch and the other fused kernels, in one process, on the same buffers.

python benches/peers.py --help
"""

import sys

from peers.command import main

if __name__ == "__main__":
    sys.exit(main())
