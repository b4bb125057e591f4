"""WHAT A USER SEES: reports as text and JSON, and all that was found as pictures.

May import runtime, plan, model and the ground (errors, fields, io, mpi, process), and of restructure the
options.
"""
