"""The way from an admission to the upstream and back: forwarding rules, connection pools and engines."""
