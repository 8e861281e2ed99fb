"""Generated stubs of the wire contract in protos/; `make protos` writes them, nobody edits them.

Rules on messages do not live here: see `rsfed.trust.envelope`, `rsfed.merging.validate` and `rsfed.analyst.decode`; what
the messages do not say themselves is in `rsfed.wire`.
"""
