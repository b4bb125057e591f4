"""Attention: what every query takes from the values of the keys that it sees."""
