"""Multilinear factor-graph Q-functions."""
