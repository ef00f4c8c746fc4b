"""The loop and what it is made of; knows no task, no store kind, no cluster."""
