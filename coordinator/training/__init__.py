"""The coordinator's part of federated training: Flower ServerApp, Grid, runs.

The only folder of the coordinator that imports flwr.
"""
