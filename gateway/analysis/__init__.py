"""Questions asked of a policy: explain, diff, matrix, lint, tests, replay, and other proxies' formats."""
