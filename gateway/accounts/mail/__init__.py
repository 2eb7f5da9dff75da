"""Mail: composed from the catalogue of texts, and sent over SMTP or into a folder."""
