"""False alarms against the bound, delay against the limit, and the detectors of others on the same streams.

Each module measures one part with ``measure(seed, quick)``; ``python -m bench.detection`` runs them all.
"""
