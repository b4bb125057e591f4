"""Faults, kills and a long run, of which ``scripts/trust.py`` makes the tables of docs/trust.md."""
