"""The rivals of the default memory core: each is one recurrence, step by step or at once, and what its source says."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fifteen.config import MindConfig
from fifteen.cores import CORES, core_named
from fifteen.errors import RunError
from fifteen.learner import new
from fifteen.model import Model, unravel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import cores as comparison  # noqa: E402
import rival_cores  # noqa: E402

WIDTH, HEADS, HEAD_SIZE = 6, 2, 3
HIDDEN = HEADS * HEAD_SIZE
CONFIG = MindConfig(width=WIDTH, heads=HEADS, head_size=HEAD_SIZE)
LENGTH = 2 * rival_cores.WINDOW + 5


@pytest.fixture(autouse=True)
def entered(monkeypatch):
    """The rivals stay within this file."""
    for name, core in rival_cores.RIVALS.items():
        monkeypatch.setitem(CORES, name, core)


def perturbed(name, seed=0):
    """A core none of whose parameters is zero."""
    random = np.random.default_rng(seed)
    core = CORES[name](random, CONFIG)
    return jax.tree.map(lambda leaf: leaf + 0.5 * random.standard_normal(leaf.shape, np.float32), core)


def inputs(name, seed, resets, full=True):
    random = np.random.default_rng(seed)
    reset = np.zeros(LENGTH, np.bool_)
    reset[resets] = True
    x = random.standard_normal((LENGTH, WIDTH), np.float32)
    state = random.standard_normal(CORES[name].state_size(CONFIG), np.float32)
    return state if full else np.zeros_like(state), x, reset


def scanned(core, state, x, reset):
    return jax.lax.scan(lambda carry, row: core.step(carry, *row), state, (x, reset))


stepped = jax.jit(scanned)
unrolled = jax.jit(lambda core, *sequence: core.unroll(*sequence))


def assert_same(given, expected, **tolerance):
    for a, b in zip(given, expected, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, **({"rtol": 1e-4, "atol": 2e-5} | tolerance))


@pytest.mark.parametrize("name", rival_cores.RIVALS)
@given(
    seed=st.integers(0, 2**32 - 1),
    resets=st.lists(st.integers(0, LENGTH - 1), max_size=5),
    full=st.booleans(),
)
@settings(max_examples=25)
def test_steps_are_the_unrolled_core(name, seed, resets, full):
    core, sequence = perturbed(name), inputs(name, seed, resets, full)
    assert_same(unrolled(core, *sequence), stepped(core, *sequence))


@pytest.mark.parametrize("name", rival_cores.RIVALS)
@pytest.mark.parametrize("cut", [1, rival_cores.WINDOW - 1])
def test_a_sequence_may_be_read_in_parts(name, cut):
    core, (state, x, reset) = perturbed(name), inputs(name, 1, [7, 40], full=False)
    middle, first = unrolled(core, state, x[:cut], reset[:cut])
    last, second = unrolled(core, middle, x[cut:], reset[cut:])
    assert_same((last, np.concatenate([first, second])), unrolled(core, state, x, reset))


@pytest.mark.parametrize("name", rival_cores.RIVALS)
@pytest.mark.parametrize("at", [0, 5, LENGTH - 3])
def test_a_reset_begins_anew(name, at):
    """From a reset on everything is as from zeros, whatever was before; without one it is not."""
    core, (state, x, reset) = perturbed(name), inputs(name, 2, [at])
    fresh = unrolled(core, np.zeros_like(state), x[at:], reset[at:] & False)
    after, out = unrolled(core, state, x, reset)
    assert_same((after, out[at:]), fresh, atol=1e-5)
    _, connected = unrolled(core, state, x, reset & False)
    assert np.abs(connected[at] - fresh[1][0]).max() > 1e-3


@pytest.mark.parametrize("name", rival_cores.RIVALS)
def test_gradients_are_finite_and_those_of_the_steps(name):
    core, sequence = perturbed(name), inputs(name, 3, [10, 11, 50])

    def total(core, form):
        state, out = form(core, *sequence)
        return jnp.sum(state**2) + jnp.sum(jnp.cos(out))

    gradients = [
        jax.jit(jax.grad(total), static_argnums=1)(core, form) for form in (scanned, lambda c, *s: c.unroll(*s))
    ]
    leaves = [jax.tree.leaves(gradient) for gradient in gradients]
    for by_steps, at_once in zip(*leaves, strict=True):
        assert np.isfinite(at_once).all()
        assert np.abs(at_once).max() > 0.0
        np.testing.assert_allclose(at_once, by_steps, rtol=1e-3, atol=1e-3)


# What the sources say, in float64 -----------------------------------------------------------------


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def doubled(core):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), core)


def normed(core, x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * core.norm.gain + core.norm.bias


def by_the_book(name, core, x, reset):
    """Outputs [T, W] from an empty state, from the equations as published."""
    core, outputs, past, hidden = doubled(core), [], [], np.zeros(HIDDEN)
    for row, forget in zip(x.astype(np.float64), reset, strict=True):
        parts = normed(core, row) @ core.project.weight + core.project.bias
        if forget:
            past, hidden = [], np.zeros(HIDDEN)
        if name == "gru":
            r, z, h = np.split(parts, 3)
            r = sigmoid(r + hidden @ core.recur_gates[:, :HIDDEN])
            z = sigmoid(z + hidden @ core.recur_gates[:, HIDDEN:])
            hidden = z * hidden + (1.0 - z) * np.tanh(h + (r * hidden) @ core.recur)
        elif name == "mingru":
            z, h = np.split(parts, 2)
            hidden = (1.0 - sigmoid(z)) * hidden + sigmoid(z) * h
        else:
            query, key, value = parts.reshape(3, HEADS, HEAD_SIZE)
            past = [*past, (key, value)][-rival_cores.WINDOW :]
            keys, values = (np.stack(part) for part in zip(*past, strict=True))  # [K, heads, d]
            logits = (keys * query).sum(2) / HEAD_SIZE**0.5 + core.ago.T[-len(past) :]
            weights = np.exp(logits) / np.exp(logits).sum(0)
            hidden = (weights[:, :, None] * values).sum(0).reshape(-1)
        outputs.append(row + hidden @ core.out.weight + core.out.bias)
    return np.stack(outputs)


@pytest.mark.parametrize("name", rival_cores.RIVALS)
def test_the_equations_are_those_published(name):
    core, (state, x, reset) = perturbed(name), inputs(name, 4, [20, 21], full=False)
    np.testing.assert_allclose(
        unrolled(core, state, x, reset)[1], by_the_book(name, core, x, reset), rtol=1e-3, atol=1e-4
    )


def test_attention_forgets_what_left_the_window():
    core, (state, x, reset) = perturbed("attention"), inputs("attention", 5, [], full=False)
    other = x.copy()
    other[0] = -x[0]  # a shift would not outlive the norm
    difference = np.abs(unrolled(core, state, x, reset)[1] - unrolled(core, state, other, reset)[1]).max(axis=1)
    assert difference[: rival_cores.WINDOW].min() > 1e-5
    assert difference[rival_cores.WINDOW :].max() == 0.0


# In the model, and in the comparison --------------------------------------------------------------


@pytest.mark.parametrize("name", comparison.MINDS)
def test_compared_cores_are_of_about_equal_size(name):
    assert comparison.MINDS[name].core == name
    ratio = comparison.core_parameters(comparison.MINDS[name]) / comparison.core_parameters(comparison.MINDS["delta"])
    assert 0.9 <= ratio <= 1.1


@pytest.mark.parametrize("name", comparison.MINDS)
def test_a_model_is_built_of_the_core_that_is_named(name):
    config, learner = comparison.MINDS[name], new(comparison.MINDS[name])
    model = Model(config, np.random.default_rng(0))
    assert [type(layer) for layer in model.layers] == [CORES[name]]
    state = jax.ShapeDtypeStruct((config.memory_size,), jnp.float32)
    x, reset = jax.ShapeDtypeStruct((3, config.width), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.bool_)
    after, out = jax.eval_shape(
        lambda w, *rest: unravel(w, config).unroll(*rest), learner.state.weights, state, x, reset
    )
    assert (after.shape, out.shape) == (state.shape, x.shape)


def test_an_unknown_core_is_refused_with_the_known_ones():
    with pytest.raises(RunError, match="'lstm' is unknown: choose one of delta"):
        core_named("lstm")
    with pytest.raises(RunError, match="lstm"):
        new(MindConfig(core="lstm"))
    with pytest.raises(RunError, match="lstm"):
        MindConfig(core="lstm").memory_size  # noqa: B018


def test_compiling_takes_no_time():
    took = [90.0, 40.0, 1.0, 3.0, 2.0, 2.0]  # seconds between the ends of rounds; the first two with compiling
    times = 1000.0 + np.cumsum([0.0, *took])
    np.testing.assert_allclose(comparison.seconds_of(times), [2.0, 4.0, 6.0, 7.0, 10.0, 12.0, 14.0])


def result(core, seed, seconds, scores):
    """A run of as many rounds as there are scores; the second family is at half the score of the others."""
    rounds = np.arange(1, len(scores) + 1)
    families = {name: list(scores) for name in comparison.FAMILIES}
    families[comparison.FAMILIES[1]] = [score / 2 for score in scores]
    curve = {"steps": (rounds * 100).tolist(), "seconds": (rounds * seconds).tolist(), "scores": families}
    told = {"device": "a processor", "school": {}, "commit": "0", "wall_s": 10.0, "cpu_s": 9.0}
    return told | {"core": core, "seed": seed, "core_parameters": 7, "parameters": 70, "state": 3, "curve": curve}


RECORDS = {
    "delta": [result("delta", seed, 2.0, [0.1, 0.2, 0.3, 0.4 + 0.1 * seed]) for seed in range(3)],
    "gru": [result("gru", seed, 1.0, [0.0, 0.1, 0.2, 0.4]) for seed in range(3)],
}


def test_equal_time_is_that_of_the_quickest_core():
    core, seconds = comparison.quickest(RECORDS)
    assert (core, seconds) == ("gru", 4.0)
    summary = comparison.summarise(RECORDS, lambda run: comparison.index_at(run, seconds))
    assert summary["delta"]["steps"]["median"] == 200
    assert summary["gru"]["steps"]["median"] == 400
    assert summary["delta"]["mean"]["median"] == pytest.approx(0.875 * 0.2)
    assert summary["delta"][comparison.FAMILIES[0]]["median"] == 0.2
    assert comparison.index_at(RECORDS["delta"][0], 3.999) == 0
    at_end = comparison.summarise(RECORDS, lambda run: -1)["delta"][comparison.FAMILIES[1]]
    assert at_end == pytest.approx({"median": 0.25, "low": 0.2, "high": 0.3, "n": 3})


def test_the_table_says_which_target_is_reached(capsys):
    comparison.print_table(RECORDS)
    said = capsys.readouterr().out
    assert "| gru | 3 | 7 | 70 | 3 | 100 [100, 100] | 0.90 [0.90, 0.90] |" in said
    steps, timed = said.split("Equal steps")[1].split("Equal time: 4 s of one core, in which gru does all its steps")
    assert "Target reached" in steps
    assert "Target missed: above delta gru" in timed


def test_runs_that_differ_are_not_compared():
    other = RECORDS["gru"][0] | {"device": "another processor"}
    with pytest.raises(SystemExit, match="gru, seed 0 .* delta, seed 0: device another processor, not a processor;"):
        comparison.print_table({**RECORDS, "gru": [other]})
    short = result("gru", 1, 1.0, [0.1])
    with pytest.raises(SystemExit, match="steps 100, not 400"):
        comparison.check_comparable({**RECORDS, "gru": [short]})
    unknown = result("gru", 1, 1.0, [0.1])
    unknown["curve"]["scores"][comparison.FAMILIES[2]] = [None]
    with pytest.raises(SystemExit, match="no lifetime of grid/dark-room had ended after 100 steps"):
        comparison.scores_at(unknown, 0)
