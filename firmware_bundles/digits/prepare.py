"""Writes what a build of ``digits`` needs into one folder.

``python firmware_bundles/digits/prepare.py --seed 0 --out out/digits`` is ``python -m dsops_controller.demo.prepare``:
the demonstration trains the same network, so the code is the demonstration's.
"""

import sys

from dsops_controller.demo.prepare import main

if __name__ == "__main__":
    sys.exit(main())
