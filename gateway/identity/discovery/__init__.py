"""Published keys of external issuers: fetched, cached, and renewed before they expire."""
