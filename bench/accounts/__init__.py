"""What accounts cost and how soon they end: `python -m bench.accounts`."""
