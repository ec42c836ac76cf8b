"""The monitor of the monitor: what Driftline sees of its own parts, and how it says so."""
