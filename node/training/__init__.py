"""The node's part of federated training: pulls tasks, runs the Flower ClientApp on its own patches, pushes results.

The only folder of the node that imports flwr. How a network learns is in `rsfed.hashing`; how codes of the archive are
made from a release is in `node.indexing`. No code ever comes over the wire, only tasks for what is installed here.
"""
