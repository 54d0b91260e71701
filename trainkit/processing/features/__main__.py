"""`python -m trainkit.processing.features features.py …`"""

from trainkit.processing.features.command import main

main()
