"""Who may do what: one table of roles, for every service's interface."""
