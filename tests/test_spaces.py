"""Senses and hands: what any Gymnasium space becomes, what is repaired, what is refused."""

import copy
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces as gs
from hypothesis import given, settings
from hypothesis import strategies as st

from fifteen.codes import TABLE_ROWS, TEXT_KEY, category_code, projection, unit_codes
from fifteen.errors import JobError, SpaceError
from fifteen.spaces import IMAGE_SIZE, Hands, HandShape, Senses, Valid

PROPERTY = settings(deadline=None, max_examples=200)
SEEDS = st.integers(0, 2**32 - 1)
SLOTS = st.sampled_from([4, 7, 16, 64])
BOOL: Any = np.bool_  # a dtype of Box, though its annotations leave it out

# Spaces -------------------------------------------------------------------------------------------

FLOAT_BOUNDS = [-np.inf, -1000.0, -1.5, 0.0, 0.1, 1.0, 1000.0, np.inf]
FLOAT_EXTREMES = [-1e300, -3.4e38, -1e16, -1e14, -6e4, 6e4, 1e14, 1e16, 3.4e38, 1e300]


@st.composite
def boxes(draw: st.DrawFn, extreme: bool = True) -> gs.Box:
    dtype = np.dtype(draw(st.sampled_from(["f2", "f4", "f8", "i1", "u1", "i4", "i8", "u8", "?"])))
    shape = draw(st.sampled_from([(), (1,), (3,), (2, 2), (1, 3)]))
    values: list[Any]
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        values = FLOAT_BOUNDS + (FLOAT_EXTREMES + [-largest, largest] if extreme else [])
        values = [v for v in values if abs(v) <= largest or np.isinf(v)]
    elif dtype.kind == "b":
        values = [False, True]
    else:
        info = np.iinfo(dtype)
        values = [-100, -7, 0, 3, 4, 15, 16, 120]
        values += [info.min, info.min + 5, info.max - 5, info.max - 1] if extreme else []
        values = [v for v in values if info.min <= v <= info.max]
    pairs = [sorted(draw(st.tuples(*[st.sampled_from(values)] * 2))) for _ in range(np.prod(shape, dtype=int))]
    # a lower bound of +inf or an upper of -inf holds no number at all
    pairs = [(min(a, values[-2]) if np.isinf(a) and a > 0 else a, b) for a, b in pairs]
    pairs = [(a, max(b, values[1]) if np.isinf(b) and b < 0 else b) for a, b in pairs]
    low, high = (np.array([p[i] for p in pairs], dtype).reshape(shape) for i in (0, 1))
    return gs.Box(low, high, dtype=dtype.type)


def discretes(largest: int) -> st.SearchStrategy[gs.Discrete]:
    sizes = [n for n in (1, 2, 5, 16, 17, 32, 33, 300, 4096, 70_000, 2**62) if n <= largest]
    return st.builds(
        lambda n, start, kind: gs.Discrete(n, start=start, dtype=kind),
        st.sampled_from(sizes),
        st.integers(-5, 5),
        st.sampled_from([np.int64] if largest > 2**31 else [np.int64, np.int32]),
    )


@st.composite
def multi_discretes(draw: st.DrawFn, largest: int) -> gs.MultiDiscrete:
    shape = draw(st.sampled_from([(1,), (3,), (2, 2)]))
    sizes = [n for n in (1, 2, 7, 16, 17, 40, 400, 4096, 70_000) if n <= largest]
    nvec = [draw(st.sampled_from(sizes)) for _ in range(int(np.prod(shape)))]
    start = [draw(st.integers(-5, 5)) for _ in nvec]
    return gs.MultiDiscrete(np.array(nvec).reshape(shape), start=np.array(start).reshape(shape))


def multi_binaries() -> st.SearchStrategy[gs.MultiBinary]:
    return st.builds(gs.MultiBinary, st.sampled_from([1, 5, (2, 3)]))


def images() -> st.SearchStrategy[gs.Box]:
    shapes = [(16, 16), (20, 33), (16, 17, 3), (40, 16, 1), (3, 32, 32), (4, 64, 16), (33, 33, 4)]
    return st.builds(lambda shape: gs.Box(0, 255, shape, np.uint8), st.sampled_from(shapes))


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.text("abcz", min_size=1, max_size=2)
    return st.recursive(
        leaves,
        lambda parts: (
            st.dictionaries(keys, parts, min_size=1, max_size=3).map(gs.Dict)
            | st.lists(parts, min_size=1, max_size=3).map(gs.Tuple)
        ),
        max_leaves=5,
    )


def observation_spaces(extreme: bool) -> st.SearchStrategy[Any]:
    texts = st.builds(lambda low, more: gs.Text(low + more, min_length=low), st.integers(0, 3), st.integers(0, 9))
    return nested(boxes(extreme) | discretes(2**62) | multi_discretes(70_000) | multi_binaries() | images() | texts)


def action_spaces(box: bool = True) -> st.SearchStrategy[Any]:
    leaves = discretes(4096) | multi_discretes(4096) | multi_binaries()
    return nested(leaves | boxes() if box else leaves)


def leaves_of(space: gym.Space) -> list[gym.Space]:
    if isinstance(space, gs.Dict | gs.Tuple):
        parts = space.spaces.values() if isinstance(space, gs.Dict) else space.spaces
        return [leaf for part in parts for leaf in leaves_of(part)]
    return [space]


def is_image(space: gym.Space) -> bool:
    return isinstance(space, gs.Box) and bool(np.prod(space.shape) >= 256)


def wild(space: gym.Space, rng: np.random.Generator) -> Any:
    """An observation of the right structure, of whatever numbers and number types."""
    if isinstance(space, gs.Dict):
        return {key: wild(part, rng) for key, part in space.spaces.items()}
    if isinstance(space, gs.Tuple):
        return [wild(part, rng) for part in space.spaces]
    if isinstance(space, gs.Text):
        return "".join(rng.choice(list("ab é漢\x00"), size=rng.integers(0, 30)))
    numbers = [np.nan, np.inf, -np.inf, 1e308, -1e308, 2.0**63, 5e-324, 0, -1, 0.4, 255, 256, 1e7]
    values = rng.choice(numbers, size=space.shape)
    form = rng.integers(4)
    if form == 0:
        return values.tolist()
    if form == 1:
        return np.nan_to_num(values, posinf=9, neginf=-9).clip(-100, 100).astype(np.int8)
    if form == 2:
        return values[None].astype(np.longdouble)
    return values.astype(object)


# Senses -------------------------------------------------------------------------------------------


def assert_percept(senses: Senses, slots: int, sensation: Any) -> None:
    assert sensation.vector.shape == (slots,)
    assert sensation.vector.dtype == np.float32
    assert np.isfinite(sensation.vector).all()
    if senses.has_image:
        assert sensation.image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert sensation.image.dtype == np.uint8
    else:
        assert sensation.image is None
    assert senses.continuous.shape == (slots,)
    assert senses.continuous.dtype == np.bool_


@PROPERTY
@given(space=observation_spaces(extreme=False), slots=SLOTS, seed=SEEDS)
def test_an_observation_of_the_space_becomes_a_percept_without_repair(space, slots, seed):
    space.seed(seed)
    senses = Senses(space, slots)
    observation = space.sample()
    sensation = senses.encode(observation)
    assert_percept(senses, slots, sensation)
    assert sensation.faults == ()
    assert senses.has_image == any(is_image(leaf) for leaf in leaves_of(space))
    again = Senses(space, slots).encode(copy.deepcopy(observation))
    np.testing.assert_array_equal(sensation.vector, again.vector)


@PROPERTY
@given(space=observation_spaces(extreme=True), slots=SLOTS, seed=SEEDS)
def test_whatever_an_environment_returns_becomes_a_finite_percept(space, slots, seed):
    senses = Senses(space, slots)
    assert_percept(senses, slots, senses.encode(wild(space, np.random.default_rng(seed))))


def test_canonical_order_and_what_may_be_standardised():
    space = gs.Tuple(
        [
            gs.Dict({"b": gs.Discrete(3, start=-1), "a": gs.Box(-5, 5, (2, 1))}),
            gs.MultiBinary((1, 2)),
            gs.MultiDiscrete([2, 3], start=[4, 0]),
            gs.Box(0, 1, (), BOOL),
            gs.Box(-9, 9, (1,), np.int32),
        ]
    )
    senses = Senses(space, 16)
    observation = (
        {"a": np.array([[1.5], [-2.0]], np.float32), "b": 1},
        np.array([[0, 1]], np.int8),
        np.array([5, 1]),
        np.array(True),
        np.array([-7], np.int32),
    )
    sensation = senses.encode(observation)
    expected = [1.5, -2.0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, -7, 0, 0]
    np.testing.assert_array_equal(sensation.vector, np.array(expected, np.float32))
    np.testing.assert_array_equal(np.flatnonzero(senses.continuous), [0, 1, 13])
    assert (sensation.faults, senses.projected, senses.has_image) == ((), 0, False)


def test_a_percept_is_no_view_of_the_observation():
    observation = np.zeros(4, np.float32)
    sensation = Senses(gs.Box(-1, 1, (4,)), 4).encode(observation)
    observation[:] = 1
    np.testing.assert_array_equal(sensation.vector, 0)
    frame = np.zeros((32, 32, 3), np.uint8)
    image = Senses(gs.Box(0, 255, (32, 32, 3), np.uint8), 4).encode(frame).image
    frame[:] = 1
    np.testing.assert_array_equal(image, 0)


BOX = gs.Box(np.array([-1, 2, -np.inf], np.float32), np.array([1, 3, np.inf], np.float32))


@pytest.mark.parametrize(
    ("observation", "vector", "faults"),
    [
        (np.array([0.5, 2.5, 7], np.float32), [0.5, 2.5, 7], ()),
        (np.array([0.5, 2.5, 7], np.float64), [0.5, 2.5, 7], ("dtype",)),
        ([0.5, 2.5, 7], [0.5, 2.5, 7], ("dtype",)),
        (np.array([0, 2, 7], np.int16), [0, 2, 7], ()),  # Gymnasium's own rule: a safe cast
        (np.array([np.nan] * 3, np.float32), [0, 2, 0], ("non-finite",)),
        (np.array([np.inf, -np.inf, np.inf], np.float32), [1, 2, 1e6], ("non-finite",)),
        (np.array([1.5, 2.5, 0], np.float32), [1, 2.5, 0], ("outside",)),
        (np.array([0, 2.5, -2e6], np.float32), [0, 2.5, -1e6], ("outside",)),
        (np.array([[0.5], [2.5], [7]], np.float32), [0.5, 2.5, 7], ("shape",)),
        (
            np.array([[np.nan, 9, 1e300]]),
            [0, 3, 1e6],
            ("dtype", "shape", "non-finite", "outside"),
        ),
    ],
)
def test_faults_of_a_vector_are_repaired_and_told(observation, vector, faults):
    sensation = Senses(BOX, 4).encode(observation)
    np.testing.assert_array_equal(sensation.vector, np.array([*vector, 0], np.float32))
    assert sensation.faults == faults


@pytest.mark.parametrize(
    ("observation", "index", "faults"),
    [
        (3, 0, ()),
        (np.int8(7), 4, ()),
        (np.array(5), 2, ()),
        (2, 0, ("outside",)),
        (10**30, 4, ("outside",)),
        (np.array([5]), 2, ("shape",)),
        (5.0, 2, ("dtype",)),
        (np.float32(np.nan), 0, ("dtype", "non-finite")),
        (-np.inf, 0, ("dtype", "non-finite")),
    ],
)
def test_faults_of_a_category_are_repaired_and_told(observation, index, faults):
    sensation = Senses(gs.Discrete(5, start=3), 8).encode(observation)
    np.testing.assert_array_equal(sensation.vector, np.eye(8, dtype=np.float32)[index])
    assert sensation.faults == faults


def test_values_within_large_declared_bounds_are_kept_and_a_bound_like_the_dtypes_is_none():
    wide = Senses(gs.Box(0, 1e7, (1,)), 4)
    assert wide.encode(np.array([5e6], np.float32)).vector[0] == 5e6
    largest = np.finfo(np.float32).max
    none = Senses(gs.Box(-largest, largest, (1,)), 4)
    sensation = none.encode(np.array([5e6], np.float32))
    assert (sensation.vector[0], sensation.faults) == (1e6, ("outside",))


def test_faults_are_told_from_every_depth_and_once():
    space = gs.Dict({"a": gs.Box(0, 1, (1,)), "b": gs.Tuple([gs.Box(0, 1, (1,)), gs.MultiBinary(2)])})
    two, bits = np.array([2], np.float32), np.array([0, 1], np.int8)
    sensation = Senses(space, 8).encode({"a": two, "b": [two, bits], "undeclared": 5})
    assert sensation.faults == ("shape", "outside")


@pytest.mark.parametrize(
    ("space", "observation", "words"),
    [
        (gs.Box(0, 1, (4,)), np.zeros(5, np.float32), ["(4,)", "(5,)", "observation"]),
        (gs.Box(0, 1, (2, 3)), np.zeros((3, 2), np.float32), ["(2, 3)", "(3, 2)"]),
        (gs.Box(0, 1, (4,)), None, ["(4,)", "()"]),
        (gs.Box(0, 1, (4,)), ["left"] * 4, ["(4,)", "list", "dtype"]),
        (gs.Box(0, 1, (2,)), [[1], [1, 2]], ["(2,)", "list"]),
        (gs.Box(0, 1, (2,)), np.zeros(2, np.complex64), ["complex64"]),
        (gs.Discrete(3), np.zeros(2, int), ["Discrete(3)", "(2,)"]),
        (gs.Discrete(3), "1", ["Discrete(3)", "str"]),
        (gs.Text(3), 5, ["Text", "int"]),
        (gs.Dict({"a": gs.Discrete(2)}), {"b": 1}, ["'a'", "'b'"]),
        (gs.Dict({"a": gs.Discrete(2)}), 1, ["'a'", "int"]),
        (gs.Tuple([gs.Discrete(2)] * 2), (1,), ["2 parts", "1 parts"]),
        (gs.Tuple([gs.Discrete(2)]), 1, ["1 parts", "int"]),
        (gs.Dict({"a": gs.Tuple([gs.MultiBinary(2)])}), {"a": ([1, 0, 1],)}, ["['a'][0]", "(3,)"]),
    ],
)
def test_what_cannot_be_interpreted_is_an_error_that_names_both_sides(space, observation, words):
    senses = Senses(space, 8)
    with pytest.raises(SpaceError) as caught:
        senses.encode(observation)
    for word in words:
        assert word in str(caught.value)


class Foreign(gym.Space):
    """A space that Gymnasium does not know."""


UNSTRUCTURED = [
    gs.Graph(gs.Box(-1, 1, (3,)), gs.Discrete(5)),
    gs.Sequence(gs.Discrete(2)),
    gs.OneOf([gs.Discrete(2), gs.Box(-1, 1, (3,))]),
    Foreign(),
]


@pytest.mark.parametrize("space", UNSTRUCTURED, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("side", ["observation", "action"])
def test_spaces_without_fixed_structure_are_refused_by_name(space, side):
    inside = gs.Dict({"a": gs.Discrete(2), "net": gs.Tuple([space])})
    for whole, where in ((space, f"the {side} space"), (inside, f"the {side}['net'][0] space")):
        with pytest.raises(SpaceError, match="Supported are Box, Discrete, MultiDiscrete") as caught:
            Senses(whole, 16) if side == "observation" else Hands(whole)
        assert where in str(caught.value)
        assert type(space).__name__ in str(caught.value)


def test_too_few_slots_are_refused():
    with pytest.raises(ValueError, match="slots is 3"):
        Senses(gs.Discrete(2), 3)


# Codes and projection -----------------------------------------------------------------------------


def test_large_categories_have_unit_codes_that_tell_them_apart():
    space = gs.Discrete(1000, start=-10)
    senses = Senses(space, 16)
    vectors = np.stack([senses.encode(value).vector for value in range(-10, 990)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    products = vectors @ vectors.T - np.eye(1000)
    assert np.abs(products).max() < 0.99
    assert abs(products.mean()) < 0.01
    assert not senses.continuous.any()


def test_a_code_depends_on_count_and_value_and_not_on_how_it_is_computed():
    table, rows = category_code(TABLE_ROWS), np.array([0, 7, TABLE_ROWS - 1], np.uint64)
    np.testing.assert_array_equal([table(int(r)) for r in rows], unit_codes(TABLE_ROWS, rows, 16))
    assert not np.array_equal(category_code(100)(3), category_code(101)(3))
    far = Senses(gs.Discrete(2**62), 16)
    assert not np.array_equal(far.encode(2**61).vector, far.encode(2**61 + 1).vector)


def test_one_hot_up_to_32_and_codes_beyond_within_one_multi_discrete():
    senses = Senses(gs.MultiDiscrete([33, 32, 100]), 64)
    vector = senses.encode(np.array([5, 31, 99])).vector
    np.testing.assert_array_equal(vector[:16], category_code(33)(5))
    np.testing.assert_array_equal(vector[16:48], np.eye(32)[31])
    np.testing.assert_array_equal(vector[48:], category_code(100)(99))


GOLDEN = """
import numpy as np
from gymnasium import spaces as gs
from fifteen.codes import projection
from fifteen.spaces import Senses
space = gs.Dict({
    "large": gs.Discrete(1000), "huge": gs.Discrete(2**40), "text": gs.Text(9, charset="é abc"),
    "many": gs.Box(-1, 1, (40,), np.float64),
})
observation = {
    "large": 123, "huge": 2**39 + 1, "text": "a é", "many": np.linspace(-1, 1, 40),
}
print(*Senses(gs.Discrete(1000), 16).encode(123).vector[:3])
print(*Senses(gs.Discrete(2**40), 16).encode(2**39 + 1).vector[:3])
print(*Senses(space["text"], 32).encode("a é").vector[:3])
print(*projection(76, 8).reshape(-1)[:3])
print(*np.round(Senses(space, 40).encode(observation).vector[-3:], 5))
"""
GOLDEN_NUMBERS = """\
-0.3058512 0.39533693 0.16172902
-0.2842947 0.45866385 0.10643618
-0.2767611 -0.032996792 -0.2375624
-0.14803067 -0.020384572 -0.2569869
-0.28641 0.20643 -0.09719
"""


@pytest.mark.parametrize("hash_seed", ["0", "12345"])
def test_codes_and_projection_are_the_same_in_every_process(hash_seed):
    path = [p for p in sys.path if p]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}\n{GOLDEN}"],
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == GOLDEN_NUMBERS


def test_dimensions_beyond_the_slots_go_through_the_fixed_projection():
    senses = Senses(gs.Box(-np.inf, np.inf, (100,)), 16)
    observation = np.random.default_rng(0).normal(size=100).astype(np.float32)
    vector = senses.encode(observation).vector
    np.testing.assert_array_equal(vector[:12], observation[:12])
    expected = observation[12:] @ projection(88, 4)
    np.testing.assert_allclose(vector[12:], expected, rtol=1e-5, atol=1e-6)
    assert senses.projected == 88
    assert senses.continuous.all()


def test_exactly_as_many_dimensions_as_slots_need_no_projection():
    senses = Senses(gs.Box(-1, 1, (16,)), 16)
    assert senses.projected == 0
    vector = senses.encode(np.arange(16, dtype=np.float32) / 16).vector
    np.testing.assert_array_equal(vector, np.arange(16) / 16)


def test_the_projection_is_centred_scaled_and_uncorrelated():
    matrix = projection(10_000, 16)  # several blocks
    assert matrix.shape == (10_000, 16)
    assert matrix.dtype == np.float32
    assert abs(matrix.mean() * 100) < 0.01
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(16), atol=0.06)


# Text and images ----------------------------------------------------------------------------------


def test_text_is_coded_by_bytes_and_positions():
    senses = Senses(gs.Text(5, min_length=0, charset="abé"), 40)

    def vector(text: Any) -> np.ndarray:
        return senses.encode(text).vector[:32]

    np.testing.assert_array_equal(vector(""), 0)
    np.testing.assert_allclose(np.linalg.norm(vector("a")), 1, rtol=1e-6)
    assert not np.array_equal(vector("ab"), vector("ba"))
    single = vector("a")
    second = vector("aa") * np.sqrt(2) - single
    bytes_of_e = unit_codes(TEXT_KEY, np.array([0xC3, 256 + 0xA9], np.uint64), 32)
    np.testing.assert_allclose(vector("é"), bytes_of_e.sum(axis=0) / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(second), 1, rtol=1e-5)
    assert not np.allclose(single, second)
    assert not senses.continuous.any()


@pytest.mark.parametrize(
    ("text", "like", "faults"),
    [
        ("aba", "aba", ()),
        (np.str_("aba"), "aba", ()),
        (b"aba", "aba", ("dtype",)),
        ("abababab", "ababa", ("outside",)),  # longer than declared: the rest is not read
        ("\ud800", "\ud800", ("outside",)),
    ],
)
def test_faults_of_a_text_are_repaired_and_told(text, like, faults):
    senses = Senses(gs.Text(5, charset="ab"), 32)
    sensation = senses.encode(text)
    np.testing.assert_array_equal(sensation.vector, senses.encode(like).vector)
    assert sensation.faults == faults


COLOURS = np.random.default_rng(5).integers(0, 256, (64, 96, 3)).astype(np.uint8)


def image_of(frame: np.ndarray, slots: int = 4) -> np.ndarray:
    senses = Senses(gs.Box(0, 255, frame.shape, np.uint8), slots)
    sensation = senses.encode(frame)
    assert sensation.image is not None
    np.testing.assert_array_equal(sensation.vector, 0)
    assert not senses.continuous.any()
    return sensation.image


def test_an_image_is_averaged_over_areas():
    blocks = COLOURS.reshape(32, 2, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(image_of(COLOURS) - blocks).max() <= 0.5 + 1e-3
    same = COLOURS[:32, :32]
    np.testing.assert_array_equal(image_of(same), same)
    uneven = COLOURS[:50, :41]
    assert np.abs(image_of(uneven).mean((0, 1)) - uneven.mean((0, 1))).max() < 0.2
    small = np.repeat(np.repeat(COLOURS[:16, :16], 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(image_of(COLOURS[:16, :16]), small)


def test_layouts_of_an_image():
    colours = image_of(COLOURS)
    grey = image_of(COLOURS[:, :, 0])
    np.testing.assert_array_equal(grey, np.repeat(colours[:, :, :1], 3, axis=2))
    np.testing.assert_array_equal(image_of(COLOURS[:, :, :1]), grey)
    np.testing.assert_array_equal(image_of(COLOURS[None, :, :, 0]), grey)
    np.testing.assert_array_equal(image_of(np.moveaxis(COLOURS, 2, 0)), colours)
    other = np.full((64, 96, 1), 77, np.uint8)
    alpha = np.concatenate((COLOURS, other), axis=2)
    np.testing.assert_array_equal(image_of(alpha), colours)
    stack = np.moveaxis(np.concatenate((other, COLOURS), axis=2), 2, 0)
    np.testing.assert_array_equal(image_of(stack), colours)  # the oldest frame is left out


@pytest.mark.parametrize(
    "space",
    [
        gs.Box(0, 255, (15, 64), np.uint8),
        gs.Box(0, 255, (64, 15, 3), np.uint8),
        gs.Box(0, 255, (64, 64, 2), np.uint8),
        gs.Box(0, 1, (32, 32, 3), np.float32),
        gs.Box(0, 255, (300,), np.uint8),
    ],
)
def test_what_is_no_image_is_a_vector(space):
    senses = Senses(space, 8)
    assert not senses.has_image
    assert senses.projected == np.prod(space.shape) - 6


def test_the_second_image_is_a_grey_thumbnail_in_the_vector():
    box = gs.Box(0, 255, COLOURS.shape, np.uint8)
    senses = Senses(gs.Tuple([gs.Discrete(2), box, box]), 80)
    sensation = senses.encode((1, COLOURS, 255 - COLOURS))
    np.testing.assert_array_equal(sensation.image, image_of(COLOURS))
    grey = (255 - COLOURS).reshape(8, 8, 8, 12, 3).mean(axis=(1, 3, 4)).reshape(-1) / 255
    np.testing.assert_allclose(sensation.vector[2:66], grey, atol=1e-5)
    np.testing.assert_array_equal(np.flatnonzero(senses.continuous), np.arange(2, 66))


def test_faults_of_an_image_are_repaired_and_told():
    senses = Senses(gs.Box(0, 255, (32, 32), np.uint8), 4)
    frame = np.full((32, 32), 9.4)
    frame[0, :3] = [np.nan, -5, 300]
    sensation = senses.encode(frame)
    assert sensation.image is not None
    np.testing.assert_array_equal(sensation.image[0, :4, 0], [0, 0, 255, 9])
    assert sensation.faults == ("dtype", "non-finite", "outside")
    narrow = Senses(gs.Box(0, 100, (32, 32), np.uint8), 4).encode(np.full((32, 32), 101, np.uint8))
    assert narrow.image is not None
    assert (narrow.image.max(), narrow.faults) == (100, ("outside",))


# Hands --------------------------------------------------------------------------------------------


def draw_choice(shape: HandShape, valid: Valid, rng: np.random.Generator) -> np.ndarray:
    """Uniform among the valid bins, the digits of a number one after the other."""
    choice = np.zeros(shape.factors, np.int32)
    remaining = np.zeros(())
    for m, (digit, group) in enumerate(zip(shape.digits, shape.group, strict=True)):
        if group < 0:
            open_bins = valid.single[m]
        else:
            assert not valid.single[m].any()
            remaining = valid.table[group] if digit == 0 else remaining
            open_bins = remaining.any(axis=tuple(range(1, remaining.ndim)))
        choice[m] = rng.choice(np.flatnonzero(open_bins))
        if group >= 0:
            remaining = remaining[choice[m]]
    return choice


@PROPERTY
@given(space=action_spaces(), bins=st.sampled_from([16, 16, 2, 3, 11]), seed=SEEDS)
def test_every_valid_choice_is_an_action_of_the_space(space, bins, seed):
    rng = np.random.default_rng(seed)
    hands = Hands(space, bins=bins, max_factors=1000)
    shape, valid = hands.shape, hands.valid()
    assert valid.single.shape == (shape.factors, shape.bins)
    assert valid.single.dtype == valid.table.dtype == np.bool_
    assert len(shape.digits) == len(shape.group) == shape.factors
    assert shape.bins <= bins
    hands.range[:] = rng.choice([1.0, 37.3, 1e4], size=shape.factors)
    for _ in range(10):
        action = hands.decode(draw_choice(shape, valid, rng))
        assert space.contains(action), action
    assert (hands.range <= 1e4).all()


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (gs.Discrete(2), HandShape(1, 2, (0,), (-1,), (0,))),
        (gs.Discrete(1), HandShape(1, 1, (0,), (-1,), (0,))),
        (gs.Discrete(16), HandShape(1, 16, (0,), (-1,), (0,))),
        (gs.Discrete(17), HandShape(2, 16, (0, 1), (0, 0), (0, 0))),
        (gs.Discrete(4096), HandShape(3, 16, (0, 1, 2), (0, 0, 0), (0, 0, 0))),
        (gs.MultiDiscrete([3, 5]), HandShape(2, 5, (0, 0), (-1, -1), (0, 0))),
        (gs.MultiBinary(3), HandShape(3, 2, (0,) * 3, (-1,) * 3, (0,) * 3)),
        (gs.Box(-1, 1, (2,)), HandShape(2, 11, (0, 0), (-1, -1), (11, 11))),
        (gs.Box(0, 3, (2,), np.int32), HandShape(2, 4, (0, 0), (-1, -1), (4, 4))),
        (
            gs.Dict({"a": gs.Discrete(300), "b": gs.MultiDiscrete([20, 3])}),
            HandShape(7, 16, (0, 1, 2, 0, 1, 2, 0), (0, 0, 0, 1, 1, 1, -1), (0,) * 7),
        ),
    ],
    ids=str,
)
def test_shape_of_the_grid(space, shape):
    hands = Hands(space)
    assert hands.shape == shape
    assert hash(hands.shape) == hash(shape)
    groups = 1 + max(shape.group)
    axes = 1 + max(shape.digits)
    assert hands.valid().table.shape == (groups, *[shape.bins] * axes)


@pytest.mark.parametrize("n", [17, 100, 256, 257, 4096])
def test_the_digits_of_a_number_reach_every_number_once(n):
    hands = Hands(gs.Discrete(n, start=5))
    choices = np.argwhere(hands.valid().table[0])
    actions = [hands.decode(choice) for choice in choices]
    assert actions == list(range(5, 5 + n))


def random_mask(space: gym.Space, rng: np.random.Generator) -> Any:
    """A mask as Gymnasium defines it, allowing at least one value of everything."""
    if isinstance(space, gs.Dict):
        return {key: random_mask(part, rng) for key, part in space.spaces.items()}
    if isinstance(space, gs.Tuple):
        return tuple(None if rng.random() < 0.2 else random_mask(p, rng) for p in space.spaces)
    if isinstance(space, gs.MultiBinary):
        return rng.integers(0, 3, space.shape).astype(np.int8)
    if isinstance(space, gs.MultiDiscrete):
        if space.nvec.ndim == 1:
            return tuple(random_mask(gs.Discrete(n), rng) for n in space.nvec)
        return tuple(random_mask(gs.MultiDiscrete(row), rng) for row in space.nvec)
    assert isinstance(space, gs.Discrete)
    mask = (rng.random(space.n) < rng.choice([0.01, 0.5])).astype(np.int8)
    mask[rng.integers(space.n)] = 1
    return mask


def assert_allowed(space: gym.Space, mask: Any, action: Any) -> None:
    if mask is None:
        return
    if isinstance(space, gs.Dict | gs.Tuple):
        parts = space.spaces.items() if isinstance(space, gs.Dict) else enumerate(space.spaces)
        for key, part in parts:
            assert_allowed(part, mask[key], action[key])
    elif isinstance(space, gs.MultiBinary):
        assert ((mask == 2) | (mask == action)).all()
    elif isinstance(space, gs.MultiDiscrete):
        for at in np.ndindex(space.nvec.shape):
            entry = mask
            for i in at:
                entry = entry[i]
            assert entry[action[at] - space.start[at]] == 1
    else:
        assert isinstance(space, gs.Discrete)
        assert mask[action - space.start] == 1


@PROPERTY
@given(space=action_spaces(box=False), seed=SEEDS)
def test_action_masks_are_honoured(space, seed):
    rng = np.random.default_rng(seed)
    hands = Hands(space, max_factors=1000)
    mask = random_mask(space, rng)
    assert space.contains(space.sample(mask=mask))  # the mask is one that Gymnasium accepts
    valid = hands.valid(mask)
    for _ in range(5):
        action = hands.decode(draw_choice(hands.shape, valid, rng))
        assert space.contains(action)
        assert_allowed(space, mask, action)


def test_a_mask_of_everything_is_no_mask_and_masks_leave_no_trace():
    hands = Hands(gs.MultiDiscrete([20, 3]))
    everything = hands.valid((np.ones(20, np.int8), np.ones(3, np.int8)))
    hands.valid((np.eye(20, dtype=bool)[4], [1, 0, 0]))
    for array, expected in zip(everything, hands.valid(), strict=True):
        np.testing.assert_array_equal(array, expected)
    assert hands.valid() is hands.valid()
    with pytest.raises(ValueError, match="read-only"):
        hands.valid().single[0, 0] = True


DICT = gs.Dict({"a": gs.Discrete(3), "b": gs.Box(-1, 1, (1,))})


@pytest.mark.parametrize(
    ("space", "mask", "words"),
    [
        (gs.Discrete(3), np.zeros(3, np.int8), "at least one"),
        (gs.Discrete(3), np.ones(4, np.int8), "shape (3,)"),
        (gs.Discrete(3), [1, 0, 2], "(allowed)"),
        (gs.Discrete(3), [1, 0, np.nan], "(allowed)"),
        (gs.Discrete(3), "all", "shape (3,)"),
        (gs.Discrete(3), [[1], [1, 0]], "shape (3,)"),
        (gs.Discrete(300), np.zeros(300, np.int8), "at least one"),
        (gs.MultiDiscrete([2, 3]), np.ones(5, np.int8), "shape (2,)"),
        (gs.MultiDiscrete([2, 3]), ([1, 1], [1, 1]), "shape (3,)"),
        (gs.MultiDiscrete([2, 3]), ([0, 0], [1, 1, 1]), "at least one"),
        (gs.MultiDiscrete([2, 3]), 1, "nested tuples"),
        (gs.MultiBinary(3), np.ones(2), "shape (3,)"),
        (gs.MultiBinary(3), [0, 1, 3], "(either)"),
        (gs.Box(-1, 1), np.ones(11), "no mask"),
        (DICT, {"a": [1, 1, 1]}, "keys ['a', 'b']"),
        (DICT, {"a": [1, 1, 1], "b": [1]}, "no mask"),
        (gs.Tuple([gs.Discrete(2)]), ([1, 0], [1]), "tuple of 1"),
        (gs.Tuple([gs.Discrete(2)]), [[0, 0]], "action[0]"),
    ],
)
def test_masks_that_cannot_be_honoured_are_errors(space, mask, words):
    with pytest.raises(JobError) as caught:
        Hands(space).valid(mask)
    assert words in str(caught.value)
    assert "info['action_mask']" in str(caught.value)


def every_value(space: gs.Box) -> list:
    hands = Hands(space)
    return [hands.decode(np.array([b])).item() for b in np.flatnonzero(hands.valid().single[0])]


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (gs.Box(-2, 2), np.linspace(-2, 2, 11)),
        (gs.Box(0, 1, (1,), np.float64), np.linspace(0, 1, 11)),
        (gs.Box(3, 3), [3]),
        (gs.Box(-2, 3, (1,), np.int64), range(-2, 4)),
        (gs.Box(0, 15, (1,), np.uint8), range(16)),
        (gs.Box(0, 16, (1,), np.uint8), [0, 2, 3, 5, 6, 8, 10, 11, 13, 14, 16]),
        (gs.Box(0, 1, (1,), BOOL), [False, True]),
        (gs.Box(2**62, 2**62 + 3, (1,), np.int64), range(2**62, 2**62 + 4)),
    ],
)
def test_bounded_dimensions_are_an_even_grid_with_both_ends(space, values):
    np.testing.assert_allclose(every_value(space), list(values), rtol=1e-6, atol=1e-7)
    assert every_value(space)[0] == space.low[0]
    assert every_value(space)[-1] == space.high[0]


@pytest.mark.parametrize(
    ("low", "high", "values", "widening"),
    [
        (-np.inf, np.inf, np.linspace(-1, 1, 11), [0, 10]),
        (3, np.inf, np.linspace(3, 4, 11), [10]),
        (-np.inf, 3, np.linspace(2, 3, 11), [0]),
        (-1e300, 1e300, np.linspace(-1, 1, 11), [0, 10]),
    ],
)
def test_unbounded_dimensions_widen_where_their_end_is_chosen(low, high, values, widening):
    space = gs.Box(low, high, (1,), np.float64)
    for b in range(11):
        hands = Hands(space)
        np.testing.assert_allclose(hands.decode(np.array([b])), values[b], atol=1e-12)
        np.testing.assert_allclose(hands.range, 1.002 if b in widening else 1.0)
        hands.range[:] = 1e4
        hands.decode(np.array([b]))
        assert hands.range[0] == 1e4


def test_the_range_is_of_its_factor_alone_even_beside_digits():
    low, high = np.array([-np.inf, 0], np.float32), np.array([np.inf, 1], np.float32)
    hands = Hands(gs.Tuple([gs.Discrete(100), gs.Box(low, high)]))
    number, (first, second) = hands.decode(np.array([6, 3, 10, 10]))
    assert (number, first, second) == (99, 1.0, 1.0)
    np.testing.assert_allclose(hands.range, [1, 1, 1.002, 1])
    copied = copy.deepcopy(hands)
    copied.decode(np.array([6, 3, 10, 10]))
    np.testing.assert_allclose(hands.range, [1, 1, 1.002, 1])
    np.testing.assert_allclose(copied.range, [1, 1, 1.002**2, 1])


def test_a_whole_number_without_bounds_stays_one():
    hands = Hands(gs.Box(-np.inf, np.inf, (1,), np.int64))
    hands.range[:] = 100
    actions = [hands.decode(np.array([b]))[0] for b in range(11)]
    assert actions == [-100, -80, -60, -40, -20, 0, 20, 40, 60, 80, 100]


@pytest.mark.parametrize(
    "space",
    [
        gs.Box(-np.inf, np.inf, (1,), np.int8),
        gs.Box(3, np.inf, (1,), np.int16),
        gs.Box(-np.inf, 2**62, (1,), np.int64),
        gs.Box(2**63 - 100, 2**63 - 2, (1,), np.int64),
        gs.Box(2**64 - 100, 2**64 - 1, (1,), np.uint64),
    ],
    ids=str,
)
def test_whole_numbers_do_not_leave_their_dtype_at_the_widest_range(space):
    hands = Hands(space)
    hands.range[:] = 1e4
    for b in range(hands.shape.bins):
        assert space.contains(hands.decode(np.array([b])))


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (gs.Text(5), "Text"),
        (gs.Discrete(4097), "4097 values"),
        (gs.MultiDiscrete([3, 5000]), "5000 values"),
        (gs.Box(-1, 1, (129,)), "129 factors"),
        (gs.MultiDiscrete([300] * 43), "129 factors"),
        (gs.Dict({}), "nothing to choose"),
        (gs.Box(-1, 1, (0,)), "nothing to choose"),
    ],
)
def test_actions_that_the_grid_cannot_hold_are_refused(space, words):
    with pytest.raises(SpaceError, match="action") as caught:
        Hands(space)
    assert words in str(caught.value)


def test_as_many_factors_as_allowed_are_accepted():
    assert Hands(gs.Box(-1, 1, (128,))).shape.factors == 128
    with pytest.raises(ValueError, match="bins is 17"):
        Hands(gs.Discrete(2), bins=17)


@pytest.mark.parametrize(
    ("space", "choice"),
    [
        (gs.Discrete(3), [3]),
        (gs.Discrete(3), [-1]),
        (gs.Discrete(3), [0, 0]),
        (gs.Discrete(3), 0),
        (gs.Discrete(17), [1, 1]),
        (gs.Box(0, 2, (2,), np.int32), [0, 3]),
    ],
)
def test_a_choice_that_stands_for_no_action_is_an_error(space, choice):
    with pytest.raises(SpaceError, match="the choice"):
        Hands(space).decode(np.array(choice))


def test_actions_keep_the_dtype_of_their_space_and_are_no_views():
    action = Hands(gs.Discrete(3, dtype=np.int32)).decode(np.array([1]))
    assert action.dtype == np.int32
    hands = Hands(gs.Box(-1, 1, (2, 1), np.float16))
    action = hands.decode(np.array([0, 10]))
    assert action.dtype == np.float16
    action[:] = 0
    np.testing.assert_array_equal(hands.decode(np.array([0, 10])), [[-1], [1]])
