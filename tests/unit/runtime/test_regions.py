"""What convolutions compute before all of their map is there: inside and border cover the outputs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from repurpose_hpc.model.operations import Window
from repurpose_hpc.runtime.lowering.local import two
from repurpose_hpc.runtime.lowering.regions import area, inside, outside

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def problems(draw):
    """A window over maps of one axis or two, and a rectangle of the map."""
    axes = draw(st.integers(1, 2))
    size = tuple(draw(st.integers(1, 9)) for _ in range(axes))
    kernel, strides, dilations = (draw(pairs)[:axes] for _ in range(3))
    pads = tuple(draw(st.integers(0, each - 1)) for each in kernel)
    out = tuple((each + pad - 1) // step + 1 for each, pad, step in zip(size, pads, strides, strict=True))
    known = np.zeros(size, bool)
    bounds = [sorted((draw(st.integers(0, each)), draw(st.integers(0, each)))) for each in size]
    known[tuple(slice(*each) for each in bounds)] = True
    return Window(size, kernel, strides, dilations, pads, out), known


def cells(region):
    """The positions of a region."""
    (top, left), (bottom, right) = region
    return {(p, q) for p in range(top, bottom) for q in range(left, right)}


@given(problems())
def test_the_inside_sees_only_what_is_known(problem):
    window, known = problem
    shape, seen = two(window.out), window.indices()
    sees_known = ((seen < 0) | known.ravel()[seen]).all(axis=1).reshape(shape)
    found = inside(known.ravel(), window)
    if not known.any():
        return
    p, q = np.nonzero(sees_known)
    expected = set(zip(p.tolist(), q.tolist(), strict=True))
    # With dilation, outputs between them may see something else.
    is_rectangle = p.size and np.ptp(p) + 1 == np.unique(p).size and np.ptp(q) + 1 == np.unique(q).size
    assert (set() if found is None else cells(found)) == (expected if is_rectangle else set())


@given(problems())
def test_inside_and_border_cover_all_outputs_once(problem):
    window, known = problem
    found, shape = inside(known.ravel(), window), two(window.out)
    if found is not None:
        parts = [found, *outside(found, shape)]
        assert sum(map(area, parts)) == shape[0] * shape[1]
        assert set().union(*map(cells, parts)) == {(p, q) for p in range(shape[0]) for q in range(shape[1])}


def test_what_is_no_rectangle_has_no_inside():
    known = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool)
    assert inside(known.ravel(), Window((3, 3), (1, 1), (1, 1), (1, 1), (0, 0), (3, 3))) is None
