"""A real S3 server for tests (OpenStack Swift), and a proxy that breaks the way to it."""
