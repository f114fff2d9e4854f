"""Runs on disk: their directories and results."""
