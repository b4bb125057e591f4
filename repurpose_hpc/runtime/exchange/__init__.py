"""Exchanges: what ranks send each other, and the transports that carry it.

From the bottom up: ``messages`` (a rank's side of one exchange), ``exchange`` (counts and buffers),
``merged`` (several as one), ``comm_dtype`` and ``transfers`` (ghosts and partial sums), ``transport`` (the
base class and the registry), ``transports`` (one file each), ``choose`` (the fastest one).
"""
