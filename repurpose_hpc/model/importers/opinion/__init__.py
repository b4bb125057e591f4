"""A second opinion on an import: what the original computes, by a program that is not ours.

The reference that results are verified with is the imported network itself, so it cannot see a mistake of
the importer.  ``probes`` draws inputs, ``evaluators`` compute what an ONNX file makes of them, ``comparison``
says what rounding explains, ``verdict`` decides and names the first tensor that differs.
"""

from repurpose_hpc.model.importers.opinion.comparison import ImportCheck
from repurpose_hpc.model.importers.opinion.verdict import check_import

__all__ = ["ImportCheck", "check_import"]
