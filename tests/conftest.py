"""Threads that wait for each other sleep in the tests: spinning ones make a shared machine ten times slower (measured on 2 cores).

OpenMP reads the variable when torch is first imported, and Ray's and DeepSpeed's workers inherit it.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
