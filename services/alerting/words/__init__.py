"""What an alert or an incident says to people, in plain words."""
