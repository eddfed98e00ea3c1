"""Exact inference by eliminating one variable after the other."""
