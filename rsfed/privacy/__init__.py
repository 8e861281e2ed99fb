"""What a node discloses at each policy level, as pure rules: no IO, no wire, no clock of its own.

Who may ask is `rsfed.trust`, in which order a query is checked `node.guard`; turning what may be said into columns of
the wire is `node.shaping`.
"""
