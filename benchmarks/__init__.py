"""Speed and memory, side by side with the alternatives; never timed tests."""

import os

# Before NumPy is loaded: on matrices this small OpenBLAS's threads wait for one another longer than they work, above
# all where other programs run beside them, and peers shall be timed at their best.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
