"""Networks of tokens from the hyperparameters and arrays of a transformer, whatever file has them.

``entries`` checks what a file says of a model, ``architecture`` is what it has to say, ``arrays`` gives the
weights by the names that ``transformer`` builds the network with.
"""
