"""Routes drafted from what an API says of itself, and compared with it."""
