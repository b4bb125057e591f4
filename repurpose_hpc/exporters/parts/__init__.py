"""A restructured network as graphs of its workers, one for what each computes between two exchanges.

``worker`` cuts these *stages*, ``directory`` writes them, with a description of what goes where.
"""
