"""Many runs, one table: accuracy against communication, and scaling.

May import runtime, restructure and all that they import.
"""
