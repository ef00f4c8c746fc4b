"""Listeners of the engine's events: ledger, progress bar, TensorBoard, W&B."""
