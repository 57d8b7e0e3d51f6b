"""What kernels of a CPU take for as long as they run."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from vibench.memory.scratch import MOST_BYTES, Scratch

aten = torch.ops.aten
COMPLEX = torch.complex64


@pytest.fixture
def scratch():
    """Called with an operator and what makes its arguments."""
    known = Scratch()

    def call(operator, make, **kwargs):
        with FakeTensorMode():
            return known(operator, make(), kwargs)

    return call


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("operator", "make"),
    [
        (aten.relu.default, lambda: (ones(64, 256),)),
        (aten.add.Tensor, lambda: (ones(64, 256), ones(256))),
        (aten.add_.Tensor, lambda: (ones(64, 256), ones(256))),
        (aten.mm.default, lambda: (ones(64, 256), ones(256, 8))),
        (aten.sum.dim_IntList, lambda: (ones(64, 256), [1])),
    ],
)
def test_what_works_on_its_arguments_takes_none(scratch, operator, make):
    assert scratch(operator, make) == 0


def test_what_an_operator_leaves_is_not_its_scratch(scratch):
    """All that it makes is its result."""
    assert scratch(aten.clone.default, lambda: (ones(1000),)) == 0
    assert scratch(aten.topk.default, lambda: (ones(64, 256), 4)) == 0


def test_a_sum_of_powers_takes_the_powers(scratch):
    """``log(sum(exp(x - max)))``: one number for each of the argument, and the largest of each row."""
    found = scratch(aten.logsumexp.default, lambda: (ones(64, 256), [1]))
    assert 64 * 256 * 4 <= found <= 2 * 64 * 256 * 4


@pytest.mark.parametrize("rows", [1, 2, 11, 64])
def test_a_conjugate_is_resolved_in_a_copy(scratch, rows):
    size = rows * 100 * 8
    assert scratch(aten.mul.Tensor, lambda: (ones(rows, 100, dtype=COMPLEX), ones(rows, 100, dtype=COMPLEX))) == 0
    assert (
        scratch(aten.mul.Tensor, lambda: (ones(rows, 100, dtype=COMPLEX).conj(), ones(rows, 100, dtype=COMPLEX)))
        == size
    )


def test_a_negative_view_is_resolved_in_a_copy(scratch):
    def negative():
        return (ones(10, 100, dtype=COMPLEX).conj().imag,)

    assert scratch(aten.relu.default, lambda: (ones(10, 100),)) == 0
    assert scratch(aten.relu.default, negative) == 10 * 100 * 4


def test_arguments_of_other_shapes_strides_or_kinds_are_measured_anew(scratch):
    """Each would be 8,000 bytes, did the first answer stand for all."""

    def product(first, second):
        return scratch(aten.mul.Tensor, lambda: (first().conj(), second()))

    def square():
        return ones(20, 50, dtype=COMPLEX)

    assert product(square, square) == 1000 * 8
    assert product(lambda: ones(40, 50, dtype=COMPLEX), lambda: ones(40, 50, dtype=COMPLEX)) == 2000 * 8
    assert product(lambda: ones(20, 50, dtype=torch.complex128), square) == 1000 * (16 + 16)  # the other is widened
    assert scratch(aten.mul.Tensor, lambda: (square(), square())) == 0


def test_a_kernel_is_run_once_for_arguments_of_a_kind():
    class Costly:
        """An operator that counts its runs."""

        runs = 0

        def __call__(self, tensor):
            self.runs += 1
            return torch.logsumexp(tensor, 1)

    costly, known = Costly(), Scratch()
    with FakeTensorMode():
        found = {known(costly, (ones(64, 256),), {}) for _ in range(3)}
        assert costly.runs == 1
        known(costly, (ones(63, 256),), {})
    assert costly.runs == 2
    assert len(found) == 1
    assert found.pop() >= 64 * 256 * 4


def test_arguments_that_are_no_legal_zeros_take_none(scratch):
    """A matrix of zeros has no factors, and an operator that asks for more than there is has no result."""
    assert scratch(aten.cholesky.default, lambda: (ones(64, 64),)) == 0
    assert scratch(aten.mm.default, lambda: (ones(3, 4), ones(5, 6))) == 0


def test_what_would_take_seconds_is_not_run(scratch):
    def ran(tensor):
        raise AssertionError("it ran")

    large = MOST_BYTES // 4
    with pytest.raises(AssertionError, match="it ran"):
        scratch(ran, lambda: (ones(10),))
    with pytest.raises(AssertionError, match="it ran"):
        scratch(ran, lambda: (ones(large),))
    assert scratch(ran, lambda: (ones(large + 1),)) == 0


def test_no_random_number_is_drawn_and_no_gradient_is_kept(scratch):
    before = torch.random.get_rng_state()
    scratch(aten.bernoulli.default, lambda: (ones(64, 256),))
    scratch(aten.logsumexp.default, lambda: (ones(64, 256).requires_grad_(), [1]))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.is_grad_enabled()


def test_real_tensors_come_and_go_within_a_fake_mode(scratch):
    """What is made afterwards is fake again."""
    with FakeTensorMode() as mode:
        Scratch()(aten.logsumexp.default, (ones(64, 256), [1]), {})
        made = torch.ones(3)
        assert made.fake_mode is mode
