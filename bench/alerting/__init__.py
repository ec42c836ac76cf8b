"""Benches of the alerting service."""
