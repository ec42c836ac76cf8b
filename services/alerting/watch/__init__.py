"""The monitor of the monitor: heartbeats, and what would make it blind."""
