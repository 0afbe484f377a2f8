"""tick(): claim, watch, stop, settle, register."""
