"""Files, signals, and the start of a process."""
