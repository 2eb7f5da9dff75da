"""The demo: an echo upstream with a gateway in front of it, in a temporary folder."""
