"""What is said of several runs: intervals, curves, profiles, tables."""
