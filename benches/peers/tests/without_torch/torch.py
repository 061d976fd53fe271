"""Found before the real one: as if there were none."""

raise ImportError("no torch, for a test")
