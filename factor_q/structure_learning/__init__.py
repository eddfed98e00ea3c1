"""Which factors a Q-function needs, learned from data."""
