"""One training run: a command, a worker loop, and what the loop is made of."""
