"""Word-level sign recognition from landmarks."""
