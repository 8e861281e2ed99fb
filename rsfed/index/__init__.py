"""Exact bucket search over packed codes. Knows nothing of handles, policies or the wire."""
