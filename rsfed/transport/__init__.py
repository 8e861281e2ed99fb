"""Secure channels and servers: mTLS, deadlines, roles on every call, errors with reasons. Knows no service by name."""
