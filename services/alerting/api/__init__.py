"""The HTTP interface, and what chat programs send back."""
