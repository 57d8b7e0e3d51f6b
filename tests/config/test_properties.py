"""Rules of the configuration, held against any value: accepted exactly if an independent reading accepts it.

The config is composed once; an example changes a copy of it, as an override would.
"""

import copy
import math
import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from vibench.config.resolve import examine

MANY = settings(deadline=None, max_examples=40)
NODES = ("", "backbone.", "embedding.", "task.classification.", "data.", "data.split.", "hardware.", "training.")
WIDTHS = st.integers(-8, 600)


@pytest.fixture(scope="module")
def base(composed):
    """The composed defaults. Examples change a copy."""
    return composed()


@pytest.fixture(scope="module")
def training(resolved):
    return resolved("task=classification").training


@MANY
@given(st.tuples(WIDTHS, WIDTHS) | st.tuples(st.integers(1, 40), st.integers(1, 32)).map(lambda p: (p[0] * p[1], p[1])))
def test_a_width_and_its_heads_are_accepted_if_the_heads_divide_it(base, sizes):
    cfg = copy.deepcopy(base)
    cfg.d_model, cfg.backbone.n_heads = sizes
    width, heads = sizes
    assert (examine(cfg)[0] == []) == (width >= 1 and heads >= 1 and width % heads == 0)


ANY_SHARES = st.lists(st.floats() | st.sampled_from([0.0, 0.5, 1.0]), max_size=5)
WHOLE_SHARES = (
    st.tuples(st.integers(-2, 9), st.integers(0, 9), st.integers(0, 9))
    .filter(lambda parts: sum(parts) > 0)
    .map(lambda parts: [part / sum(parts) for part in parts])
)


@MANY
@given(ANY_SHARES | WHOLE_SHARES, st.sampled_from([None, "loss"]))
@example([], "loss")
@example([1.0, 0.0, 0.0], None)
@example([0.8, 0.0, 0.2], None)
@example([0.8, 0.0, 0.2], "loss")
def test_fractions_are_accepted_if_they_are_three_shares_with_something_to_train_and_to_test_on(base, shares, monitor):
    cfg = copy.deepcopy(base)
    cfg.data.split.fractions, cfg.training.monitor = shares, monitor
    legal = len(shares) == 3 and all(0 <= share <= 1 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)
    legal = legal and shares[0] > 0 and shares[2] > 0 and (monitor is None or shares[1] > 0)
    said = examine(cfg)[0]
    assert (said == []) == legal, said


@MANY
@given(st.sampled_from(NODES), st.from_regex(r"[a-z_][a-z0-9_]{0,12}", fullmatch=True), st.integers() | st.text("ab"))
@example("training.", "keys", 1)  # names of methods that a mapping has
@example("backbone.", "items", "a")
@example("", "e_layers", 1)  # a key of another node
def test_an_added_key_is_refused_by_its_name(base, node, key, value):
    """What ``+node.key=value`` does, which Hydra lets through."""
    cfg = copy.deepcopy(base)
    if key in (OmegaConf.select(cfg, node.rstrip(".")) if node else cfg):
        return
    with open_dict(cfg):
        OmegaConf.update(cfg, f"{node}{key}", value, merge=True, force_add=True)
    (said,) = examine(cfg)[0]
    assert said.startswith(f"{node}{key} is not a key of ")


COUNTS = st.none() | st.integers(1, 80)


@settings(MANY, max_examples=200)  # a dataclass alone: microseconds
@given(st.integers(1, 64), COUNTS, COUNTS)
@example(32, 5, 7)  # six parts of five and one of two
@example(32, 5, 6)
@example(32, None, 31)  # 32 windows cannot be cut into 31 parts of one size and a rest
def test_a_cut_of_the_batch_is_accepted_if_it_covers_the_batch_exactly(training, batch, micro, accumulation):
    """``range`` cuts the batch as the training does; what is left to the planner may take any size."""
    sizes = [micro] if micro else range(1, batch + 1)
    legal = any(
        size <= batch and (accumulation is None or len(range(0, batch, size)) == accumulation) for size in sizes
    )
    config = replace(
        training,
        global_batch_size=batch,
        micro_batch=str(micro or "auto"),
        accumulation=str(accumulation or "auto"),
    )
    said = list(config.complaints())
    assert (said == []) == legal, said


@settings(MANY, max_examples=200)
@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 5), st.none() | st.integers(1, 400))
@example(104, 32, 3, None)
@example(96, 32, 3, 9)  # exactly all of them
@example(1, 64, 1, 1)
def test_the_steps_of_a_training_are_the_batches_of_its_epochs_up_to_the_most(training, windows, batch, epochs, most):
    """Counted one by one, as a loop would make them."""
    done = 0
    for _ in range(epochs):
        for _ in range(0, windows, batch):
            done += most is None or done < most
    config = replace(training, global_batch_size=batch, epochs=epochs, max_steps=most)
    assert config.steps(windows) == done


@settings(MANY, max_examples=200)
@given(st.sampled_from(["micro_batch", "accumulation"]), st.text(max_size=6) | st.integers().map(str))
@example("micro_batch", "４")  # a digit, but not one that YAML would read as a number
@example("accumulation", "²")
@example("micro_batch", "1_0")
@example("accumulation", "")
@example("micro_batch", "0")
def test_a_wish_that_is_no_positive_number_is_refused(training, key, text):
    (said,) = list(replace(training, **{key: text}).complaints()) or [None]
    number = int(text) if re.fullmatch(r"0*[1-9][0-9]*", text) else None
    if text == "auto":
        assert said is None
    elif number is None:
        assert f"training.{key}={text} is neither auto nor a whole number" in said
    else:
        assert said is None or "neither auto" not in said
