"""Real stores, for benchmarks and tests."""
