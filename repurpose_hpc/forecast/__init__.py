"""Forecasts: the time of an inference on a machine that need not be at hand.

``machine``: its speeds.  ``demand``: the work and traffic of every rank under a plan; ``scaled``: the same
for numbers of workers without a plan.  ``timeline``: the model of time.  ``summary``: conclusions.  Nothing
here communicates.  May import plan, model and errors, and of the kernels what says which is faster.
"""
