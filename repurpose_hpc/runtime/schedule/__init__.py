"""The calls of a forward, from the steps of a program, carried out by compiled code."""
