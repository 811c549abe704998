"""What the commands in Scripts are made of."""
