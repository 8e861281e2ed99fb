"""Exact bucket search over packed codes, the keyed order of items that tie, and the index on disk.

`search.View` is the index at one moment: pure, numpy arrays in and out. `writer.IndexWriter` and
`reader.IndexReader` keep it on disk; `warm` compiles its kernels. Handles, policies and the wire are the node's
(`node.search`).
"""
