"""Trained networks of other people's packages, each with the task that it was made for.

A file holds the networks of one field, a function for each; ``NETWORKS`` is filled by them.
"""

from trained import faces, pages, sequences, sound, surrogates, text
from trained.network import NETWORKS, Task, TrainedNetwork

__all__ = ["NETWORKS", "Task", "TrainedNetwork", "faces", "pages", "sequences", "sound", "surrogates", "text"]
