"""The `s3://` store: everything that knows the SDK, and nothing that knows checkpoints."""
