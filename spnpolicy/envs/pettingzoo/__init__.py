"""The environments of others, through PettingZoo."""
