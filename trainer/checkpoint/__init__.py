"""State, manifest, publish, restore, retention; the stores."""
