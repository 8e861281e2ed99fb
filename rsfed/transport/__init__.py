"""Secure channels and servers: mTLS, deadlines, roles on every call, rate limits, errors with their reasons.

Knows no service by name and answers no call itself. Who may call what, and which certificate is believed, is decided by
the rules in `rsfed.trust`.
"""
