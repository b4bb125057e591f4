"""Graphs written otherwise, before they are evaluated or node by node while they are.

``opset`` makes old models new.
"""
