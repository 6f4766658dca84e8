"""PostgreSQL: the truth. One schema on three editions; every statement of Lighthouse lives here."""
