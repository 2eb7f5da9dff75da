"""Other issuers' keys: fetched from where they publish them, kept, and renewed before they grow stale."""
