"""One federation: identity of its members, registry of nodes, fan-out of queries, merge, releases, command line.

Pure rules (`merge`, `validate`, `breaker`) stand beside the services that do the IO. No image, encoder or archive is
known here: what comes from nodes are codes' distances, handles and model updates. What both roles share lives in
`rsfed`; nothing here imports `node`, which is known through the wire only.
"""
