"""zwicky: self-supervised learning for strong gravitational lenses."""

import os

# Idle OpenMP threads that spin take a second process on the same cores from 250 to 60 images/s; they must
# sleep instead, and the choice is only read when torch first loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
