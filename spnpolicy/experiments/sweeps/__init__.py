"""Many runs: plans, workers, engines."""
