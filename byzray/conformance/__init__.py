"""Replays vectors: outputs of the published code, and of an independent implementation of the field beyond it."""
