"""Pictures of reports: a file for each subject, which declares its kinds with ``pictures_of``.

They need matplotlib.  May import what ``report`` may.
"""

from repurpose_hpc.report.pictures import (  # noqa: F401  each declares its pictures
    bench,
    forecast,
    load,
    masks,
    quality,
    scaling,
    study,
    time,
    traffic,
    tuning,
)
from repurpose_hpc.report.pictures.picture import KINDS, Chapter, Picture, PictureKind

__all__ = ["KINDS", "Chapter", "Picture", "PictureKind"]
