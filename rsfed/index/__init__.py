"""Exact bucket search over packed codes, and the keyed order of items that tie.

Pure: numpy arrays in and out, no IO. Handles, policies and the wire are the node's (`node.search`); the codes
themselves are kept by the node's catalogue.
"""
