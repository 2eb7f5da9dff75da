"""The cost of accounts and the delay of revocations: `python -m bench.accounts`."""
