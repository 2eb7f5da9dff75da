"""Rate limits per client and route, and limits on failed attempts."""
