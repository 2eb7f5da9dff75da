"""From an admission to the upstream and back: the forwarding rules, the pools, the engines."""
