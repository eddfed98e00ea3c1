"""Sum-product networks over discrete variables."""
