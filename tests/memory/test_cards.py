"""What a card offers a plan, before and after runs on it were measured."""

from dataclasses import replace

import pytest
import yaml

from tests.conftest import CONF
from vibench.memory.cards import cards, roomier, usable
from vibench.memory.measured import ENOUGH, Measured, remember

HARDWARE = sorted(path.stem for path in (CONF / "hardware").glob("*.yaml"))
CARDS = [
    name for name in HARDWARE if yaml.safe_load((CONF / "hardware" / f"{name}.yaml").read_text())["gpu_memory_gib"]
]

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def card(small):
    """Round numbers: 20 GiB, of them 0.5 for the context."""
    return replace(
        small("rtx3090").hardware, gpu_memory_gib=20.0, usable_share=0.5, measured_share=0.9, context_mib=512
    )


def measure(name, *peaks):
    for peak in peaks:
        remember(Measured(hardware=name, backbone="FNO", precision="fp32", peak=peak, step=1.0))


def test_usable_is_a_share_of_the_card_less_the_context(card):
    assert usable(card) == 20 * 0.5 - 0.5


@pytest.mark.parametrize("name", HARDWARE)
def test_every_card_has_usable_memory_below_its_own(small, name):
    hardware = small(name).hardware
    assert (usable(hardware) is None) == (hardware.gpu_memory_gib is None) == (name not in CARDS)
    if hardware.gpu_memory_gib is not None:
        assert 0.8 * hardware.gpu_memory_gib < usable(hardware) < hardware.gpu_memory_gib


@pytest.mark.parametrize("worst", [0.4, 0.98, 1.0])
def test_once_runs_were_measured_more_is_usable_however_little_they_took(card, worst):
    measure("rtx3090", *[0.3] * (ENOUGH - 1))
    assert usable(card) == 9.5
    measure("rtx3090", worst)
    assert usable(card) == 20 * 0.9 - 0.5


def test_what_is_usable_is_less_by_what_the_worst_run_took_beyond_its_prediction(card):
    measure("rtx3090", 0.9, 1.25, 1.1, 0.9, 0.9)
    assert usable(card) == (20 * 0.9 - 0.5) / 1.25


def test_runs_on_another_card_change_nothing(card):
    measure("v100", *[1.25] * ENOUGH)
    assert usable(card) == 9.5


def test_without_a_measured_share_the_usable_one_stays(card):
    measure("rtx3090", *[1.25] * ENOUGH)
    assert usable(replace(card, measured_share=None)) == 9.5


def test_the_cards_are_those_of_the_configs_with_what_they_offer(small):
    assert cards() == {name: usable(small(name).hardware) for name in CARDS}
    assert CARDS


def test_the_cards_know_of_measured_runs(small):
    before = cards()
    measure("v100", *[1.0] * ENOUGH)
    after = cards()
    assert after["v100"] == usable(small("v100").hardware) > before["v100"]
    assert after | {"v100": 0.0} == before | {"v100": 0.0}


def test_roomier_cards_are_named_by_what_they_offer():
    offers = cards()
    middle = sorted(offers.values())[len(offers) // 2]
    enough = [name for name, gib in offers.items() if gib >= middle]
    assert 0 < len(enough) < len(offers)
    assert roomier(middle) == f"so much is offered by hardware={', '.join(enough)}"


def test_where_no_card_is_roomy_enough_that_is_said():
    assert roomier(max(cards().values())).startswith("so much is offered by hardware=")
    assert roomier(1.001 * max(cards().values())) == "no card of conf/hardware offers so much"
