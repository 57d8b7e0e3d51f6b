"""The config of a run on disk: read again as it was, checked as if it had been composed."""

import re
from pathlib import Path

import pytest
import yaml

from vibench.config.data import HDF5
from vibench.config.describe import GROUPS
from vibench.config.frozen import FILE, differences, freeze, read, thaw
from vibench.config.plain import plain
from vibench.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = [
    (group, path.relative_to(CONF / group).with_suffix("").as_posix())
    for group in GROUPS
    for path in sorted((CONF / group).rglob("*.yaml"))
]

MEASURED = {"data=cwru", "data=femto", "data=eeg", "experiment=seizure_v3", "experiment=seizure_v3_a100"}


@pytest.fixture(scope="module")
def config(tiny):
    return tiny()


@pytest.fixture
def run(config, tmp_path):
    freeze(plain(config), tmp_path)
    return tmp_path


def test_every_group_has_options_that_are_tried_below():
    assert {group for group, _ in OPTIONS} == set(GROUPS)


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_the_config_of_every_option_is_read_again_as_it_was(resolved, tmp_path, group, name):
    store = tmp_path / "some.h5"
    store.write_bytes(HDF5)
    measured = [f"data.store={store}"] if f"{group}={name}" in MEASURED else []
    config = resolved(f"{group}={name}", *measured)
    freeze(plain(config), tmp_path)
    assert read(tmp_path) == plain(config)
    assert thaw(tmp_path, []) == config


@pytest.mark.parametrize(
    "override",
    [
        "training.lr=1e-05",
        "training.lr=12",
        "training.lr=1e-300",
        "training.weight_decay=0",
        "training.monitor=null",
        "training.max_steps=7",
        "training.micro_batch='4'",
        "training.init_parts=[embedding]",
        "hardware.slurm.time='12:34:56'",
        "hardware.slurm.time='1-00:00:00'",
        "data.label='no'",
        "data.label='1e3'",
        "data.label='ä: #1'",
        "+data.only.system=[cwru,'0x1']",
        "seed=4294967295",
    ],
)
def test_values_that_yaml_could_take_for_others_are_read_again_as_they_were(tiny, tmp_path, override):
    config = tiny(override)
    assert config != tiny()
    freeze(plain(config), tmp_path)
    assert thaw(tmp_path, []) == config


def test_it_appears_whole_and_holds_nothing_else(run):
    assert [path.name for path in run.iterdir()] == [FILE]


def test_what_cannot_be_written_leaves_the_old_one(run):
    before = (run / FILE).read_text()
    with pytest.raises(yaml.YAMLError, match="cannot represent an object"):
        freeze({"seed": object()}, run)
    assert (run / FILE).read_text() == before


def test_it_is_replaced_by_a_later_one(run, config):
    freeze(plain(config) | {"seed": 5}, run)
    assert thaw(run, []).seed == 5
    assert [path.name for path in run.iterdir()] == [FILE]


# overrides


def test_values_are_changed(run, config):
    found = thaw(run, ["training.lr=0.5", "training.checkpointing=full", "task.rul_prediction.weight=3"])
    assert list(differences(plain(config), plain(found))) == [
        f"task.rul_prediction.weight: {config.task['rul_prediction'].weight} -> 3.0",
        f"training.checkpointing: {config.training.checkpointing.name} -> full",
        f"training.lr: {config.training.lr} -> 0.5",
    ]


def test_the_file_stays_as_it_is(run):
    before = (run / FILE).read_text()
    thaw(run, ["training.lr=0.5"])
    assert (run / FILE).read_text() == before


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.lr=fast", r"training\.lr=fast"),
        ("training.lr=-1", r"training\.lr=-1"),
        ("training.rate=1", r"training\.rate"),
        ("training.precision=fp12", r"training\.precision=fp12"),
        ("d_model=15", r"d_model=15 is not divisible by backbone\.n_heads"),
        ("training.lr=0.1,0.2", r"training\.lr=0\.1,0\.2"),
        ("backbone.n_heads", r"backbone\.n_heads"),
        ("task.sorting.weight=1", r"task\.sorting"),
        ("+more=1", r"more is not a key"),
        ("~training.lr", r"training\.lr"),
    ],
)
def test_a_value_that_would_be_refused_when_composed_is_refused(run, override, said):
    with pytest.raises(ConfigError, match=said) as caught:
        thaw(run, [override])
    assert len(caught.value.complaints) == 1


def test_everything_that_is_wrong_with_the_overrides_is_said_at_once(run):
    with pytest.raises(ConfigError, match=r"training\.rate") as caught:
        thaw(run, ["training.rate=1", "backbone=dlinear", "seed=x"])
    assert len(caught.value.complaints) == 3


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_cannot_be_chosen_anew(run, group):
    with pytest.raises(ConfigError, match=rf"^{group}=other cannot be chosen anew: the run has begun; change values"):
        thaw(run, [f"{group}=other"])


def test_a_task_can_be_left_out(run):
    assert set(thaw(run, []).task) - set(thaw(run, ["~task.rul_prediction"]).task) == {"rul_prediction"}


# what cannot be read


def test_a_folder_without_one_is_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            ConfigError, match=rf"^{re.escape(str(folder))} holds no run: there is no {FILE}; name"
        ) as caught:
            thaw(folder, [])
        assert len(caught.value.complaints) == 1


def refused(folder):
    return pytest.raises(ConfigError, match=rf"^{re.escape(str(folder / FILE))} cannot be read: \S")


@pytest.mark.parametrize(
    "content",
    [b"", b"[1, 2]", b"a: b: c", b"seed: [", b"\xff\xfe", b"\0\0\0\0", b"!!python/object/apply:os.getcwd []", b"text"],
    ids=repr,
)
def test_a_file_that_is_no_config_is_one_line_that_names_it(run, content):
    (run / FILE).write_bytes(content)
    with refused(run) as caught:
        thaw(run, [])
    assert "\n" not in str(caught.value)


def test_a_folder_in_its_place_is_one_line_that_names_it(tmp_path):
    (tmp_path / FILE).mkdir()
    with refused(tmp_path):
        thaw(tmp_path, [])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.97])
def test_a_file_that_is_cut_short_is_a_complaint(run, share):
    content = (run / FILE).read_bytes()
    (run / FILE).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read: \S|is missing"):
        thaw(run, [])


def paths(values, prefix=()):
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


SECTIONS = ["seed", "d_model", *(group for group in GROUPS if group != "experiment")]


def after(run, config, path, change):
    """What is said of the file after an edit; None where it is accepted."""
    content = plain(config)
    node = content
    for key in path[:-1]:
        node = node[key]
    change(node, path[-1])
    freeze(content, run)
    try:
        thaw(run, [])
    except ConfigError as error:
        return error.complaints
    return None


def of_section(config, section):
    """Every key below a section, itself included, but for what the schema knows by itself, and tasks."""
    return [
        path
        for path in paths({section: plain(config)[section]})
        if path[-1] != "_target_" and not (len(path) == 2 and path[0] == "task")
    ]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_key_that_is_gone_is_one_complaint_that_names_it(run, config, section):
    for path in of_section(config, section):
        said = after(run, config, path, lambda node, key: node.pop(key))
        assert said is not None, path
        assert len(said) == 1
        assert ".".join(path) in said[0]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_value_of_another_kind_is_one_complaint_that_names_the_file_or_the_key(run, config, section):
    for path in of_section(config, section):
        said = after(run, config, path, lambda node, key: node.update({key: {"a": 1}}))
        assert said is not None, path
        assert len(said) == 1
        assert str(run / FILE) in said[0] or ".".join(path) in said[0]


def test_a_key_that_no_schema_has_is_one_complaint(run, config):
    (said,) = after(run, config, ("training", "rate"), lambda node, key: node.update({key: 1}))
    assert "rate" in said
    assert str(run / FILE) in said


def test_a_class_that_is_not_ours_is_one_complaint(run, config):
    (said,) = after(run, config, ("backbone", "_target_"), lambda node, key: node.update({key: "os.system"}))
    assert said.startswith(f"{run / FILE} cannot be read: os.system is none of ")


def test_a_list_within_a_list_of_names_is_a_complaint(run, config):
    assert after(run, config, ("data", "split", "test"), lambda node, key: node.update({key: [["a"]]}))


# differences


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, ["b: 2 -> 3"]),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1, "d": 4}}}, ["a.b.d: 2 -> 4"]),
        ({"a": 1}, {"b": 2}, ["a: 1 -> absent", "b: absent -> 2"]),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, ["a.b: 1 -> absent", "a.c: absent -> 1"]),
        ({"a": {"b": 1}}, {"a": None}, ["a: {'b': 1} -> None"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] -> [2, 1]"]),
        ({"a": None}, {}, ["a: None -> absent"]),
        ({"z": 1, "a": 1}, {"a": 2, "z": 2}, ["z: 1 -> 2", "a: 1 -> 2"]),
        ({"a": {}}, {"a": {}}, []),
    ],
)
def test_every_value_that_differs_is_listed_with_its_key(before, now, said):
    assert list(differences(before, now)) == said


def test_a_config_does_not_differ_from_what_was_read_again(run, config):
    assert list(differences(plain(config), read(run))) == []
