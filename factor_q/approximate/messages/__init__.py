"""Estimates from messages between factors and variables."""
