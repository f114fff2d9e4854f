"""What the paper says of its runs: statistics and claims."""
