"""Gridworld coverage."""
