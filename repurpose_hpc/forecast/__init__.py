"""Forecasts: the time of an inference on a machine that need not be at hand.

``machine``: what is known of it.  ``demand``: what a plan asks of every rank; ``scaled``: the same for
numbers of workers without a plan.  ``timeline``: the model of time.  ``summary``: what follows.
Nothing here communicates.  May import plan, model and errors, and of the kernels what says which is faster.
"""
