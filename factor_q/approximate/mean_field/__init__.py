"""Lower bounds: variables, or blocks of them, made independent."""
