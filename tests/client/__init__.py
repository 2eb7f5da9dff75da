"""The client library for upstreams."""
