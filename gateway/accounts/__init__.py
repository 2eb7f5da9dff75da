"""Registration, login, sessions, API keys and account administration."""
