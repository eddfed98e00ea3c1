"""Experiments: plans of many runs, worker processes, statistics, tables, curves, animations and answers."""
