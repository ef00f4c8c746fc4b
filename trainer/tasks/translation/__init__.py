"""Sequence-to-sequence translation with a Transformer."""
