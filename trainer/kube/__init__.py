"""Kubernetes: in the pod the launcher and its preflight; at the desk submit, wait, logs and status."""
