"""`gateway users`."""
