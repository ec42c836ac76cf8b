"""The routing file: receivers, roles, the tree of routes, silencing and escalation."""
