"""Lowering: the steps that compute the operations of a network on a rank."""
