"""One federation: identity of its members, registry of nodes, fan-out of queries, releases, command line.

The pure rule of the `breaker` stands beside the services that do the IO; validation and merge of answers are in
`rsfed.merging`, because analysts merge too. No image, encoder or archive is known here: what comes from nodes are
codes' distances, handles and model updates. What both roles share lives in `rsfed`; nothing here imports `node`, which
is known through the wire only.
"""
