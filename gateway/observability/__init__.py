"""Access log, decision log, events, metrics and traces."""
