"""Ranks: agreement on failures, launch, places.

May import errors, fields and io; nothing of the package above the ground.
"""
