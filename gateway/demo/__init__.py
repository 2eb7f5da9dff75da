"""The demo: an upstream that shows what it received and a gateway in front of it, leaving nothing behind."""
