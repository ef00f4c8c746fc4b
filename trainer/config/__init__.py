"""Everything a person can set: one pydantic model, its sources, its JSON Schema."""
