"""Commands, as users type them: one module a command, each parses its words and runs.

May import everything; nothing imports commands.
"""
