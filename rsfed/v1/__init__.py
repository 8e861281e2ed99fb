"""Generated stubs of the wire contract in protos/; `make protos` writes them, nobody edits them."""
