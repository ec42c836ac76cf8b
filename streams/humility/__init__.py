"""Humility in the streams: decisions checked, counted, judged by what turned out, and fitted."""
