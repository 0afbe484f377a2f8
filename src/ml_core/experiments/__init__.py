"""See `run_experiments`."""
