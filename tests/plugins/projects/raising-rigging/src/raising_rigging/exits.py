"""Leaves the interpreter at import, as scripts do that were made into modules."""

import sys

sys.exit("usage: exits.py FILE")
