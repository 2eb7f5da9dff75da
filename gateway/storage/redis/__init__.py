"""Redis: the client, and the shared state that replicas keep in it."""
