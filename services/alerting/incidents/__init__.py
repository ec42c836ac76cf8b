"""From alerts to incidents: one cause, one incident."""
