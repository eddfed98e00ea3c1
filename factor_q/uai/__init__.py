"""Models and evidence in the UAI format."""
