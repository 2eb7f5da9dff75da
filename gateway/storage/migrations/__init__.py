"""Migrations of the database, one file each in `versions`; `running` applies them without an alembic.ini."""
