"""Requests on idle connections that real servers are about to close."""
