"""What upstreams use to verify who calls."""
