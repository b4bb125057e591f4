"""Loops and calls in the compiler's intermediate language; no other folder imports llvmlite.

Every one has a plain meaning, the function that comes first: it is what runs without the compiler, and what
tests compare with.
"""
