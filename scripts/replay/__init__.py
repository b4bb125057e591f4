"""Compare what a commit and the working tree compute, bit for bit: ``python3 scripts/dev.py replay BASE``.

``networks`` makes eight networks and their data, ``cases`` is the table of what is done with them, ``trees``
does it with one tree, ``compare`` finds the first difference.  Both trees are driven through the commands
that the README promises, so that names inside the package are free to change between them.
"""
