"""How many steps a training promises, and a warm-up that would not end within them."""

import pytest

from vibench.data.build import build
from vibench.errors import ConfigError
from vibench.model import targets
from vibench.training.fit import promised_steps


@pytest.fixture
def promised(tiny):
    def call(*overrides):
        config = tiny(*overrides)
        return promised_steps(build(config.data, targets(config)), config)

    return call


def test_steps_are_the_batches_of_all_epochs_the_last_one_being_smaller(promised):
    windows = 104  # of the tiny training split
    assert promised("training.global_batch_size=10", "training.epochs=3") == 3 * -(-windows // 10)


def test_max_steps_is_the_end_where_it_comes_first(promised):
    assert promised("training.max_steps=3", "training.epochs=9") == 3
    assert promised("training.max_steps=1000") == promised()


def test_a_warm_up_that_would_not_end_is_refused_with_the_longest_that_does(promised):
    with pytest.raises(ConfigError, match=r"training\.warmup_steps=20 does not end within the 4 steps.*<=3"):
        promised("training.warmup_steps=20")
