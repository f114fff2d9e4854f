"""Many setups: grids, plans, and their execution by Ray Tune."""
