"""Training: the loop, its random streams, what it records and what it saves."""
