"""Humility in the streams: decisions checked, counted and followed to their outcomes; rules fitted to a reference."""
