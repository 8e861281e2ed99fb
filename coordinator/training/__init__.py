"""The coordinator's part of federated training: Flower ServerApp, Grid, runs, and the TrainingService that feeds them.

The only folder of the coordinator that imports flwr. How a network learns is in `rsfed.hashing`, what a release is in
`rsfed.trust`; the weights that a run ends with are published by `coordinator.releases`.
"""
