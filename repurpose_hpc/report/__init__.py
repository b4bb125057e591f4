"""WHAT A USER SEES: reports as text and JSON.

May import plan, model and the ground (errors, fields, io, mpi, process).
"""
