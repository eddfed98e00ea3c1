"""Tractable joint policies."""
