"""Regions (sets of variables): couplings between variables, trees that cut few of them, labels and states."""
