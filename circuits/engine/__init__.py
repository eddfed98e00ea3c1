"""How a pass runs: circuits compiled once into folded layers, and the passes up and down them."""
