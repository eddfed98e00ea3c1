"""Animations, films and figures."""
