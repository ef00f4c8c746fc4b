"""Training workload for Kubernetes; imports nothing, so that `trainer.train` stays the module."""
