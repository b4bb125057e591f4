"""Ranks: how they agree on failures, how they were launched, where they are.

May import errors and fields; nothing of the package above the ground.
"""
