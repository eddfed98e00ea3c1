"""Which factors a Q-function needs, learned from data; which order and tree suit them."""
