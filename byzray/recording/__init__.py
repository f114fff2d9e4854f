"""The loop around a run, and what it records."""
