"""Upper bounds: of the maximum and of log Z."""
