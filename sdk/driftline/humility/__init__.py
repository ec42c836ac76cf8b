"""Humility: when a prediction is one not to be trusted, and what is done about it.

The same code decides inside the serving application and in the streams, which check what was decided.
"""
