"""Run directories and results."""
