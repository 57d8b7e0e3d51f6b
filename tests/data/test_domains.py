"""Trained on one machine, tested on another; and domains that hide a leak."""

import pytest

from tests.data.conftest import raw
from vibench.data.build import build
from vibench.data.splits import column
from vibench.errors import DataError
from vibench.model import targets
from vibench.run import run_experiment

BETWEEN_SYSTEMS = (
    "data.split.by=system",
    "data.split.train=[motor]",
    "data.split.test=[rig]",
    "training.monitor=null",
)
OWN = "data.normalisation=recording"


@pytest.fixture
def demo(tiny):
    """Audited splits of the simulated machines, with overrides."""

    def call(*overrides):
        config = tiny("data.conditions=2", *overrides)
        return build(config.data, targets(config))

    return call


def systems(data, name):
    split = data.splits[name]
    return {split.recordings[number].system for number in split.places[:, 0].tolist()}


def channels(data, name):
    return set(data.splits[name].channels.tolist())


# from one system to another


def test_a_split_between_systems_is_clean_and_shares_none(demo):
    data = demo(*BETWEEN_SYSTEMS, OWN)
    assert (data.certificate["clean"], data.certificate["waived"]) == (True, False)
    assert (data.certificate["by"], list(data.splits)) == ("system", ["train", "test"])
    assert (systems(data, "train"), systems(data, "test")) == ({"motor"}, {"rig"})
    assert list(data.certificate["splits"]["test"]["windows_per_system"]) == ["rig"]


@pytest.mark.parametrize("back", [False, True])
def test_the_systems_differ_in_channels_and_a_batch_has_those_of_the_wider(demo, back):
    split = ("data.split.train=[rig]", "data.split.test=[motor]") if back else ()
    data = demo(*BETWEEN_SYSTEMS, *split, OWN)
    found = channels(data, "train"), channels(data, "test")
    assert found == (({3}, {2}) if back else ({2}, {3}))
    assert data.n_channels == 3
    for split in data.splits.values():
        batch = split.__getitems__([0, len(split) - 1])
        assert batch.signal.shape[1] == 3
        assert (batch.signal.any(-1).sum(1) == batch.channels).all()


@pytest.mark.parametrize("embedding", ["patch", "hse", "pointwise"])
def test_a_model_is_trained_on_one_system_and_scored_on_the_other(tiny, tmp_path, embedding):
    options = (
        "backbone=dlinear",
        "backbone.moving_average=3",
        f"embedding={embedding}",
        "training.max_steps=3",
        "data.conditions=1",
    )
    status = run_experiment(tiny(*BETWEEN_SYSTEMS, OWN, *options), tmp_path)
    assert status["state"] == "completed"
    assert status["split"]["splits"]["test"]["windows"] == status["results"]["signal_prediction"]["samples"]
    for name, result in status["results"].items():
        assert result["samples"] > 0, name
        assert result["metrics"].keys() == result["naive"].keys()


@pytest.mark.parametrize("kind", ["recording", "window", "none"])
def test_normalisations_that_need_no_training_window_of_a_system_are_accepted(demo, kind):
    assert demo(*BETWEEN_SYSTEMS, f"data.normalisation={kind}").certificate["clean"]


@pytest.mark.parametrize(("train", "test"), [("motor", "rig"), ("rig", "motor")])
def test_statistics_of_the_training_are_refused_for_a_system_that_it_has_not_seen(demo, train, test):
    names = (f"data.split.train=[{train}]", f"data.split.test=[{test}]")
    with pytest.raises(
        DataError,
        match=rf"data\.normalisation=train has no training window of system {test}; "
        r"use data\.normalisation=recording or window",
    ):
        demo(*BETWEEN_SYSTEMS, *names, "data.normalisation=train")


def test_two_systems_cannot_be_drawn_into_three_splits(demo):
    with pytest.raises(DataError, match=r"by=system has 2 values .* too few to fill val and test; name them"):
        demo("data.split.by=system", OWN)


def test_a_system_that_is_not_there_is_refused_with_those_that_are(demo):
    with pytest.raises(DataError, match=r"data\.split\.test names rigg, which is no system .* there are motor, rig"):
        demo(*BETWEEN_SYSTEMS, "data.split.test=[rigg]", OWN)


# from one condition to another, of the same bearings


SAME = ("training.monitor=null", "~task.rul_prediction")  # a life is run at one condition
BETWEEN_LOADS = ("data.split.by=load", "data.split.train=[0,4]", "data.split.test=[2,4.2]", *SAME)
BETWEEN_SPEEDS = ("data.split.by=rpm", "data.split.train=[1797,1800]", "data.split.test=[1750,1650]", *SAME)
CONDITIONS = pytest.mark.parametrize("split", [BETWEEN_LOADS, BETWEEN_SPEEDS], ids=["load", "rpm"])


@CONDITIONS
def test_conditions_of_the_same_bearings_are_refused_as_a_leak(demo, split):
    with pytest.raises(
        DataError, match=r"the splits leak: train and test share 24 entities \(motor-ball-0, .*and 19 m"
    ):
        demo(*split, "training.monitor=null")


@CONDITIONS
def test_conditions_of_the_same_bearings_pass_when_allowed_and_the_certificate_says_so(demo, split):
    data = demo(*split, "data.allow_leaky=true")
    assert (data.certificate["clean"], data.certificate["waived"]) == (False, True)
    (shared,) = data.certificate["shared"]
    assert (len(shared["entities"]), shared["overlapping_windows"], shared["copied_windows"]) == (24, 0, 0)


def test_a_result_that_leaks_by_condition_says_so_at_its_end(tiny, tmp_path, capsys):
    options = ("data.conditions=2", "training.max_steps=2", "data.allow_leaky=true")
    run_experiment(tiny(*BETWEEN_LOADS, *options), tmp_path)
    assert "LEAKY, waived by data.allow_leaky=true: train and test share 24 entities" in capsys.readouterr().out


def test_conditions_are_clean_where_each_bearing_was_run_at_one(built):
    recordings = [raw(f"{load}-{i}", columns={"load": load}) for load in "012" for i in range(2)]
    data = built(recordings, split={"by": "load", "train": ["0"], "val": ["1"], "test": ["2"]})
    assert data.certificate["clean"]
    assert data.certificate["splits"]["test"]["entities"] == ["2-0", "2-1"]


# names of the entity


@pytest.mark.parametrize("name", ["bearing", "run"])
def test_bearing_and_run_are_the_entity(demo, name):
    by_entity, by_name = demo(), demo(f"data.split.by={name}")
    for split in ("train", "val", "test"):
        assert (by_name.splits[split].places == by_entity.splits[split].places).all()
    assert by_name.certificate["by"] == name


@pytest.mark.parametrize("name", ["bearing", "run"])
def test_bearings_and_runs_can_be_named_and_kept(demo, name):
    train, test = "motor-inner-0,motor-healthy-0", "motor-inner-1,motor-healthy-1"
    data = demo(
        f"data.split.by={name}",
        f"data.split.train=[{train}]",
        f"data.split.test=[{test}]",
        f"+data.only.{name}=[{train},{test}]",
        "training.monitor=null",
        "~task.rul_prediction",
    )
    assert data.certificate["splits"]["test"]["entities"] == ["motor-healthy-1", "motor-inner-1"]


@pytest.mark.parametrize("name", ["bearing", "run"])
def test_a_column_of_that_name_in_the_store_comes_before_the_entity(built, name):
    """Here two entities are of one bearing: they go together, where by entity they may not."""
    recordings = [raw(f"e{i}", columns={name: "xyz"[i // 2]}) for i in range(6)]
    data = built(recordings, split={"by": name, "train": ["x"], "val": ["y"], "test": ["z"]})
    entities = {split: part["entities"] for split, part in data.certificate["splits"].items()}
    assert entities == {"train": ["e0", "e1"], "val": ["e2", "e3"], "test": ["e4", "e5"]}
    assert {column(r, name) for r in data.splits["test"].recordings} == {"x", "y", "z"}


def test_a_column_called_bearing_that_cuts_an_entity_in_two_is_a_leak(built):
    recordings = [raw(f"r{i}", f"e{i // 2}", columns={"bearing": f"b{i % 2}"}) for i in range(4)]
    with pytest.raises(DataError, match=r"train and test share 2 entities \(e0, e1\)"):
        built(recordings, split={"by": "bearing", "train": ["b0"], "test": ["b1"]})
