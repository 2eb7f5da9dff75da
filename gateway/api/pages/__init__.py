"""The gateway's own pages: whole HTML from the server, for people with browsers."""
