"""Checks of environments, before and during a run."""
