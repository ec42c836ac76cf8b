"""From incidents to messages: who is told what and when, the durable outbox, and sending."""
