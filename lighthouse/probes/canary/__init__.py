"""Canaries: flows of steps over HTTP, chains and browsers, and all that only they need."""
