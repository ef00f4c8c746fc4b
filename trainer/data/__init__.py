"""Order of samples, sharding, batching, prefetch; knows no model."""
