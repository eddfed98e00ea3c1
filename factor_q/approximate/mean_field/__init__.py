"""Lower bounds: agents, or groups of them, made independent."""
