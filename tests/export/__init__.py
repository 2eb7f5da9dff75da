"""The policy written down for other proxies."""
