"""Settings -> Platform: the one place where backends meet features."""
