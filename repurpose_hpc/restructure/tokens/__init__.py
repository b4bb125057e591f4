"""HOW A NETWORK OF TOKENS IS CUT: with texts, for texts of any lengths.

May import what ``restructure`` may, and of it.
"""
