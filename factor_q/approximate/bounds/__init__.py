"""Upper bounds."""
