"""What humility rules cost, and whether their guarantees hold."""
