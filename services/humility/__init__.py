"""What humility rules promise, what they did, and whether they helped."""
