"""`python -m trainkit.processing.features features.py …`, and by file, as `process` and `train` start it."""

import sys

if sys.path[0] == __file__.rpartition("/")[0]:
    del sys.path[0]  # started by file: our `report` is not what a features.py means by it

from trainkit.processing.features.command import main

main()
