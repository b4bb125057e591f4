"""WHAT A USER SEES: reports as text and JSON.

May import runtime, plan, model and the ground (errors, fields, io, mpi, process).
"""
