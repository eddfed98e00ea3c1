"""Messages: an estimate of log Z by sums, and a search for the maximum by maxima."""
