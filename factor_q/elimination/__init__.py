"""Exact elimination: an order, a plan, the passes up and down it, the memory guard, cutsets."""
