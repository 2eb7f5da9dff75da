"""HTTP/1.1 on client connections."""
