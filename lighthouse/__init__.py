"""Lighthouse: a distributed fleet that checks services, keeps exact history and alerts people."""

__version__ = "0.1.0"
