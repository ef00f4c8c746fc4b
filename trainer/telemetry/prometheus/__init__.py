"""Metrics for Prometheus: the list of them, the listener that fills them, and how they get out of the process."""
