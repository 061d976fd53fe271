"""What some tests need that may not be there."""

from __future__ import annotations

import unittest

try:
    import torch
except (ImportError, OSError):
    torch = None

needs_torch = unittest.skipIf(torch is None, "torch is not installed")
