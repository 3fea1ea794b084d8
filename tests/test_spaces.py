"""Laws of the codec between spaces and vectors, over generated spaces."""

from __future__ import annotations

import json
from collections import OrderedDict

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minari_distill.errors import DatasetError
from minari_distill.spaces import SpaceCodec, first_difference
from tests.conftest import sample_batch

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def boxes(draw, dtypes, largest: int):
    """Boxes of a dtype and shape, unbounded, half bounded or bounded, each number of its own."""
    dtype, shape = np.dtype(draw(st.sampled_from(dtypes))), draw(shapes)
    if dtype.kind == "f":
        # + 0.0 for no −0.0: NumPy refuses to sample between 0.0 and −0.0
        finite = st.floats(-1e4, 1e4, width=8 * dtype.itemsize).map(lambda x: x + 0.0)
        low = draw(hnp.arrays(dtype, shape, elements=finite))
        high = np.maximum(low, draw(hnp.arrays(dtype, shape, elements=finite)))
        low = np.where(draw(hnp.arrays(bool, shape)), low, dtype.type(-np.inf))
        high = np.where(draw(hnp.arrays(bool, shape)), high, dtype.type(np.inf))
        return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)
    info = np.iinfo(dtype)
    numbers = st.integers(max(info.min, -largest), min(info.max, largest))
    a, b = (draw(hnp.arrays(dtype, shape, elements=numbers)) for _ in range(2))
    return spaces.Box(np.minimum(a, b), np.maximum(a, b), dtype=dtype.type)


def leaves(dtypes, largest: int):
    return st.one_of(
        boxes(dtypes, largest),
        st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 5), st.integers(-3, 3)),
        hnp.arrays(np.int64, shapes.filter(len), elements=st.integers(1, 4)).map(spaces.MultiDiscrete),
        st.builds(
            lambda n, start: spaces.MultiDiscrete(n, start=start), st.just([3, 1, 4]), st.just([-2, 0, 7])
        ),
        shapes.filter(len).map(spaces.MultiBinary),
    )


def trees(dtypes, largest: int):
    """Dicts and tuples of leaves, nested; keys may hold spaces and dots."""
    return st.recursive(
        leaves(dtypes, largest),
        lambda children: st.one_of(
            st.dictionaries(st.text("ab .é", min_size=1, max_size=4), children, min_size=1, max_size=3).map(
                spaces.Dict
            ),
            st.lists(children, min_size=1, max_size=3).map(lambda items: spaces.Tuple(tuple(items))),
        ),
        max_leaves=5,
    )


INTEGERS = [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint64]
FLOAT32 = trees([np.float16, np.float32, *INTEGERS], 2**24)
FLOAT64 = trees([np.float16, np.float32, np.float64, *INTEGERS], 2**53)
ANY = trees([np.float16, np.float32, np.float64, *INTEGERS], 2**62)


def assert_same(space, a, b):
    if isinstance(space, spaces.Dict):
        for key in space.spaces:
            assert_same(space[key], a[key], b[key])
    elif isinstance(space, spaces.Tuple):
        for child, x, y in zip(space.spaces, a, b, strict=True):
            assert_same(child, x, y)
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def one(value, i):
    """The i-th value of a batch."""
    if isinstance(value, dict):
        return {key: one(v, i) for key, v in value.items()}
    if isinstance(value, tuple):
        return tuple(one(v, i) for v in value)
    return value[i]


@given(st.data(), st.sampled_from(["float32", "float64"]), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_decode_undoes_encode(data, dtype, seed):
    """decode(encode(v)) = v, values and dtypes, for every value that the float type can hold."""
    space = data.draw(FLOAT32 if dtype == "float32" else FLOAT64)
    space.seed(seed)
    batch = sample_batch(space, 4)
    codec = SpaceCodec(space, dtype=dtype)
    vectors = codec.encode(batch)
    assert vectors.shape == (4, codec.dim)
    assert vectors.dtype == dtype
    assert codec.fault(vectors) is None
    assert_same(space, codec.decode(vectors), batch)
    assert_same(space, codec.decode_one(codec.encode_one(one(batch, 2))), one(batch, 2))
    np.testing.assert_array_equal(codec.encode_one(one(batch, 2)), vectors[2])


@given(ANY, st.sampled_from(["float32", "float64"]), st.data())
@settings(max_examples=150, deadline=None)
def test_every_vector_decodes_into_the_space(space, dtype, data):
    """decode(v) ∈ space for every finite v, however wild, whatever the space's dtypes and bounds."""
    codec = SpaceCodec(space, dtype=dtype)
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=np.dtype(dtype).itemsize * 8)
    vectors = data.draw(hnp.arrays(dtype, (3, codec.dim), elements=numbers))
    vectors[1] = np.clip(np.nan_to_num(codec.low), -1e30, 1e30)
    vectors[2] = np.clip(np.nan_to_num(codec.high), -1e30, 1e30)
    values = codec.decode(vectors)
    for i in range(3):
        value = codec.decode_one(vectors[i])
        assert space.contains(value), value
        assert_same(space, one(values, i), value)


@given(FLOAT32, st.data())
@settings(max_examples=100, deadline=None)
def test_projection(space, data):
    """project: idempotent, = encode ∘ decode, inside the bounds; the soft one keeps what is inside already."""
    codec = SpaceCodec(space)
    numbers = st.floats(-1e6, 1e6, width=32)
    vectors = data.draw(hnp.arrays(np.float32, (3, codec.dim), elements=numbers))
    hard, soft = codec.project(vectors), codec.project(vectors, soft=True)
    np.testing.assert_array_equal(codec.project(hard), hard)
    np.testing.assert_array_equal(codec.encode(codec.decode(vectors)), hard)
    np.testing.assert_allclose(codec.project(soft, soft=True), soft, atol=1e-6)
    for projected in (hard, soft):
        assert codec.fault(projected) is None
    np.testing.assert_allclose(codec.project(hard, soft=True), hard, atol=1e-6)


@given(ANY)
@settings(max_examples=100, deadline=None)
def test_description_goes_through_json(space):
    """from_spec(spec()) is the same codec, leaf for leaf and column for column."""
    codec = SpaceCodec(space, dtype="float64")
    again = SpaceCodec.from_spec(json.loads(json.dumps(codec.spec())))
    assert again == codec
    assert hash(again) == hash(codec)
    assert [(p.name, p.slice, p.kind, p.shape) for p in again.parts] == [
        (p.name, p.slice, p.kind, p.shape) for p in codec.parts
    ]
    np.testing.assert_array_equal(again.low, codec.low)
    np.testing.assert_array_equal(again.high, codec.high)
    assert first_difference(space, again.space) is None


@given(
    hnp.arrays(np.float64, 4, elements=st.floats(-1e6, 1e6)),
    hnp.arrays(np.float64, 4, elements=st.floats(-1e6, 1e6)),
)
@settings(max_examples=100, deadline=None)
@example(np.full(4, 0.1), np.full(4, 0.1))
@example(np.full(4, -0.1), np.full(4, 0.1))
def test_float32_bounds_lie_inside_float64_ones(a, b):
    """A float32 vector clipped to `low` and `high` is inside a float64 Box, though its bounds are no float32."""
    low, high = np.minimum(a, b), np.maximum(a, b)
    codec = SpaceCodec(spaces.Box(low, high, dtype=np.float64))
    np.testing.assert_array_equal(codec.low, codec.low.astype(np.float32))
    np.testing.assert_array_equal(codec.high, codec.high.astype(np.float32))
    wide = np.float32(high) - np.float32(low) > 0.01 * np.maximum(1, np.abs(high))
    assume(wide.any() or (low == high).all())
    assert (codec.low >= low)[wide].all()
    assert (codec.high <= high)[wide].all()
    assert codec.fault(codec.encode(np.stack([low, high]))) is None, "the bounds themselves are values"


def test_integers_are_rounded_to_the_nearest():
    """2.6 becomes 3, −0.2 becomes 0, 9 the bound; the soft projection keeps 2.6."""
    codec = SpaceCodec(spaces.Box(0, 5, (3,), np.uint8))
    vectors = np.float32([[2.6, -0.2, 9]])
    np.testing.assert_array_equal(codec.decode(vectors), [[3, 0, 5]])
    np.testing.assert_array_equal(codec.project(vectors), [[3, 0, 5]])
    np.testing.assert_array_equal(codec.project(vectors, soft=True), np.float32([[2.6, 0, 5]]))


def test_columns_do_not_depend_on_the_order_of_keys():
    """A Dict may keep an order of its own, which JSON forgets: the columns follow the sorted keys."""
    space = spaces.Dict(OrderedDict(b=spaces.Discrete(2), a=spaces.Discrete(3)))
    codec = SpaceCodec(space)
    assert [part.name for part in codec.parts] == ["a", "b"]
    again = SpaceCodec.from_spec(codec.spec())
    value = {"a": np.int64(2), "b": np.int64(0)}
    np.testing.assert_array_equal(again.encode_one(value), codec.encode_one(value))
    assert codec.decode_one(codec.encode_one(value)) == value


def test_simplex_projection_by_hand():
    """Nearest probabilities to (0.8, 0.6, −1): θ = (0.8 + 0.6 − 1)/2 = 0.2, so (0.6, 0.4, 0)."""
    codec = SpaceCodec(spaces.Discrete(3))
    np.testing.assert_allclose(
        codec.project(np.float32([[0.8, 0.6, -1]]), soft=True), [[0.6, 0.4, 0]], atol=1e-6
    )
    np.testing.assert_array_equal(codec.project(np.float32([[0.8, 0.6, -1]])), [[1, 0, 0]])
    assert codec.is_discrete


KITCHEN = spaces.Dict(
    {
        "observation": spaces.Box(-np.inf, np.inf, (59,), np.float64),
        "achieved_goal": spaces.Dict(
            {
                "slide cabinet": spaces.Box(-np.inf, np.inf, (1,), np.float64),
                "kettle": spaces.Box(-np.inf, np.inf, (7,), np.float64),
            }
        ),
    }
)
MINIGRID = spaces.Dict(
    {
        "direction": spaces.Discrete(4),
        "image": spaces.Box(0, 255, (7, 7, 3), np.uint8),
        "mission": spaces.Text(256),
    }
)


def test_parts_have_names_and_columns():
    """Keys in sorted order, whatever the order they came in; dots between keys."""
    codec = SpaceCodec(KITCHEN)
    assert [(p.name, p.slice.start, p.slice.stop) for p in codec.parts] == [
        ("achieved_goal.kettle", 0, 7),
        ("achieved_goal.slide cabinet", 7, 8),
        ("observation", 8, 67),
    ]
    assert not codec.is_discrete


def test_dropped_leaves_are_neither_read_nor_written():
    """A dropped leaf may be missing from the values; `kept_space` and `decode` do without it."""
    codec = SpaceCodec(MINIGRID, drop=["mission"])
    assert codec.dim == 4 + 147
    batch = sample_batch(MINIGRID, 2)
    decoded = codec.decode(codec.encode(batch))
    assert set(decoded) == {"direction", "image"} == set(codec.kept_space.spaces)
    del batch["mission"]
    assert_same(codec.kept_space, decoded, batch)
    assert SpaceCodec(codec.kept_space).dim == codec.dim
    assert SpaceCodec(KITCHEN, drop=["achieved_goal"]).dim == 59, "a whole branch at once"
    assert SpaceCodec(spaces.Tuple((spaces.Text(3), spaces.Discrete(2))), drop=["0"]).decode_one([0, 1]) == (
        1,
    )


def test_a_scalar_stored_as_an_array_of_one():
    """Some datasets hold Discrete values as (N, 1)."""
    codec = SpaceCodec(spaces.Discrete(3, start=1))
    np.testing.assert_array_equal(codec.encode(np.array([[1], [3]])), [[1, 0, 0], [0, 0, 1]])


IMAGE = spaces.Box(0, 255, (210, 160, 3), np.uint8)

REFUSED_SPACES = {
    "text": (MINIGRID, {}, r"part 'mission' is text.*drop=\['mission'\]"),
    "only text": (spaces.Text(5), {}, "the space is text"),
    "sequence": (
        spaces.Dict(a=spaces.Sequence(spaces.Discrete(2))),
        {},
        r"'a' is a Sequence space.*drop=\['a'\]",
    ),
    "image": (
        IMAGE,
        {},
        "100,800 numbers: 806 GB of memory for 1,000,000 transitions.*Shrink it below 16,384",
    ),
    "image in a dict": (spaces.Dict(a=IMAGE, b=IMAGE), {"drop": ["b"]}, r"part 'a'.*image.*drop=\['a'\]"),
    "unknown drop": (
        KITCHEN,
        {"drop": ["observations"]},
        "no part 'observations' to drop. Did you mean 'observation'?",
    ),
    "drop of all": (spaces.Dict(a=spaces.Discrete(2)), {"drop": ["a"]}, "Nothing is left"),
    "float16 vectors": (KITCHEN, {"dtype": "float16"}, "'float32' or 'float64', not 'float16'"),
    "empty": (spaces.Box(0, 1, (0,)), {}, "Nothing is left"),
}


@pytest.mark.parametrize("case", REFUSED_SPACES)
def test_refused_spaces(case):
    """A space that cannot be used is refused by the name of its leaf, with what to do."""
    space, options, message = REFUSED_SPACES[case]
    with pytest.raises(DatasetError, match=message):
        SpaceCodec(space, **options)


REFUSED_VALUES = {
    "another shape": (spaces.Box(0, 1, (3,)), np.zeros((2, 4)), r"shape \(4,\).*expects \(3,\)"),
    "objects": (spaces.Box(0, 1, (1,)), np.array([[None]]), "holds object values, not numbers.*float32"),
    "ragged": (spaces.Box(0, 1, (2,)), [[1.0], [1.0, 2.0]], "differ in shape"),
    "no such category": (spaces.Discrete(3, start=2), np.array([2, 5]), "category 5, expected 2 … 4"),
    "fractional category": (spaces.Discrete(3), np.array([0.5]), "float64 numbers; categories are integers"),
    "a bit of 2": (spaces.MultiBinary(2), np.array([[0, 2]]), "holds 2; a MultiBinary"),
    "missing key": (KITCHEN, {"observation": np.zeros((1, 59))}, "'achieved_goal.kettle' is missing"),
    "counts differ": (
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(2)),
        {"a": np.zeros(2, int), "b": np.zeros(3, int)},
        "'b' holds 3 values, part 'a' 2",
    ),
    "integer beyond float32": (
        spaces.Box(-(2**40), 2**40, (1,), np.int64),
        np.array([[2**24 + 1]]),
        'integer 16777217, and float32.*dtype="float64"',
    ),
}


@pytest.mark.parametrize("case", REFUSED_VALUES)
def test_refused_values(case):
    """A value that is not of its space is refused, not bent."""
    space, values, message = REFUSED_VALUES[case]
    with pytest.raises(DatasetError, match=message):
        SpaceCodec(space).encode(values)


def test_vectors_of_another_length_are_refused():
    with pytest.raises(DatasetError, match=r"shape \(2, 4\) given, \(N, 3\) expected"):
        SpaceCodec(spaces.Discrete(3)).decode(np.zeros((2, 4)))


@pytest.mark.parametrize(
    "spec", [{}, {"space": "?", "drop": [], "dtype": "float32"}, {"space": '{"type": "Hat"}'}]
)
def test_refused_descriptions(spec):
    with pytest.raises(DatasetError, match="no description of a space"):
        SpaceCodec.from_spec(spec)


def test_faults_name_the_place():
    """`fault` says which number of which part is wrong, in which row."""
    codec = SpaceCodec(spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(2)))
    good = np.float32([[0, 0, 0.5, 0.5]])
    assert codec.fault(good) is None
    assert "part 'a'[1] is 3.0 in row 0, outside [-1, 1]" in codec.fault(np.float32([[0, 3, 1, 0]]))
    assert "part 'a'[0] is nan" in codec.fault(np.float32([[np.nan, 0, 1, 0]]))
    assert "probabilities of part 'b' add up to 0.7 in row 0" in codec.fault(np.float32([[0, 0, 0.5, 0.2]]))


def test_first_difference_names_the_leaf():
    a = spaces.Dict(x=spaces.Discrete(2), y=spaces.Discrete(3))
    assert first_difference(a, spaces.Dict(x=spaces.Discrete(2), y=spaces.Discrete(3))) is None
    assert first_difference(a, spaces.Dict(x=spaces.Discrete(2))) == "only the first has a part 'y'"
    assert first_difference(spaces.Dict(x=spaces.Discrete(2)), a) == "only the second has a part 'y'"
    assert "Discrete(3) against Discrete(4) in 'y'" in first_difference(
        a, spaces.Dict(x=spaces.Discrete(2), y=spaces.Discrete(4))
    )


def test_keys_that_are_numbers_survive_json():
    """JSON makes texts of them; the values that are asked still have numbers."""
    space = spaces.Dict({1: spaces.Box(-1, 1, (1,), np.float32), 2: spaces.Box(-1, 1, (1,), np.float32)})
    value = {1: np.float32([0.25]), 2: np.float32([-0.5])}
    codec = SpaceCodec(space)
    back = SpaceCodec.from_spec(json.loads(json.dumps(codec.spec())))
    assert codec.encode_one(value).tolist() == back.encode_one(value).tolist() == [0.25, -0.5]


def test_what_was_empty_stays():
    """A branch without leaves belongs to every value of the space; only what is dropped goes."""
    space = spaces.Dict(
        {"a": spaces.Dict({}), "b": spaces.Discrete(2), "c": spaces.Dict({"d": spaces.Discrete(2)})}
    )
    value = SpaceCodec(space).decode_one(np.float32([0, 1, 1, 0]))
    assert space.contains(value) and value == {"a": {}, "b": 1, "c": {"d": 0}}
    assert SpaceCodec(space, drop=["c"]).decode_one(np.float32([1, 0])) == {"a": {}, "b": 0}
