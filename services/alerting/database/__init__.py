"""The service's database: its tables, how it is opened and brought up to date, and who may hold it."""
