"""The node's part of federated training: pulls tasks, runs the Flower ClientApp.

The only folder of the node that imports flwr.
"""
