"""The layouts of the database, one revision after the other."""
