"""What `circuit_speed.py` runs: one adapter per engine, and the parts that they share."""
