"""The importer's operators, as their modules declare them."""

import pkgutil
from collections import Counter
from importlib import import_module

from repurpose_hpc.model.importers import onnx
from repurpose_hpc.model.importers.onnx.operators import OPERATORS


def test_each_is_declared_once_and_none_is_forgotten():
    names = [
        module.name for module in pkgutil.iter_modules(onnx.__path__) if module.name.startswith("nodes_")
    ]
    modules = [import_module(f"{onnx.__name__}.{name}") for name in names]
    declared = Counter(operator for module in modules for operator in getattr(module, "OPERATORS", ()))
    assert [operator for operator, times in declared.items() if times > 1] == []
    assert declared.keys() == OPERATORS.keys() - {"Identity", "Dropout"}
