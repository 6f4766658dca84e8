"""Alembic migrations; shipped in the wheel as lighthouse_migrations.

Two revisions make the schema of lighthouse/store/tables.py: 0001 the ordinary tables, 0002 the
histories and rollups, in the form that the server's edition has for them. Their SQL is frozen
text: tables.py may move on, a migration that has run never changes.
"""
