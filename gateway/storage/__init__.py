"""The database and Redis: the only package that uses their drivers."""
