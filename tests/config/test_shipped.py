"""What is shipped in ``conf``: every combination is accepted, and every value written there is the value of the run.

Two orders of a defaults list lose values silently (schema after ``_self_``, ``experiment`` before it), so the order is
read from the files as well as seen in what is composed.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.plugins.plugin import Plugin
from omegaconf import DictConfig, OmegaConf

from vibench.config import launcher, sweeper
from vibench.config.data import HDF5
from vibench.config.describe import GROUPS, options
from vibench.config.resolve import examine

CONF = Path(__file__).parents[2] / "conf"


def names(group: str) -> list[str]:
    """The options of a group, from the files."""
    return sorted(path.relative_to(CONF / group).with_suffix("").as_posix() for path in (CONF / group).rglob("*.yaml"))


def read(file: str) -> DictConfig:
    return OmegaConf.load(CONF / f"{file}.yaml")


def plain(node: DictConfig) -> dict:
    return OmegaConf.to_container(node, resolve=False, enum_to_str=True)


def leaves(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Key and value of everything below, an empty dict included."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def written(file: str) -> dict[str, object]:
    """The values that stand in a file of ``conf``."""
    return dict(leaves({key: value for key, value in plain(read(file)).items() if key not in ("defaults", "hydra")}))


MEASURED = {"data=cwru", "data=femto", "data=eeg", "experiment=seizure_v3", "experiment=seizure_v3_a100"}
PARTS = [group for group in GROUPS if group != "experiment"]
FILES = [(group, name) for group in PARTS for name in names(group)]
EXPERIMENTS = names("experiment")
FOUNDATION = [name for name in EXPERIMENTS if name.startswith("foundation/")]


@pytest.fixture
def accepted(composed: Callable[..., DictConfig], tmp_path: Path) -> Callable[..., list[str]]:
    """What is wrong with a combination; a data set of measured recordings is given a store that exists."""
    store = tmp_path / "some.h5"
    store.write_bytes(HDF5)

    def call(*overrides: str) -> list[str]:
        measured = [f"data.store={store}"] if MEASURED & set(overrides) else []
        return examine(composed(*overrides, *measured))[0]

    return call


@pytest.fixture(scope="module")
def values_of(composed: Callable[..., DictConfig]) -> Callable[[str, str], dict[str, object]]:
    """The values of a group when an option is chosen; each composed once."""
    return cache(lambda group, name: dict(leaves(plain(composed(f"{group}={name}")[group]))))


@pytest.mark.parametrize(("group", "name"), [*FILES, *(("experiment", name) for name in EXPERIMENTS)])
def test_every_option_is_accepted_beside_the_defaults(accepted, group, name):
    assert accepted(f"{group}={name}") == []


@pytest.mark.parametrize(("backbone", "embedding"), list(product(names("backbone"), names("embedding"))))
def test_every_backbone_goes_with_every_embedding(accepted, backbone, embedding):
    few_tokens = ("backbone.modes=8",) if (backbone, embedding) == ("fno", "envelope") else ()
    assert accepted(f"backbone={backbone}", f"embedding={embedding}", *few_tokens) == []


@pytest.mark.parametrize(("task", "training"), list(product(names("task"), names("training"))))
def test_every_task_goes_with_every_training(accepted, task, training):
    assert accepted(f"task={task}", f"training={training}") == []


@pytest.mark.parametrize("hardware", names("hardware"))
def test_the_full_size_experiment_goes_to_every_card(accepted, hardware):
    assert accepted("experiment=foundation/patchtst", f"hardware={hardware}") == []


def test_every_file_is_offered_as_an_option_and_nothing_else():
    assert options() == {group: names(group) for group in GROUPS}


def test_every_folder_is_a_group():
    """Hydra's own groups (``hydra/launcher``) are no part of an experiment."""
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {"__pycache__", "hydra"}
    assert folders == set(GROUPS)


@pytest.mark.parametrize(("group", "name"), FILES)
def test_a_file_names_its_schema_first_and_itself_last(group, name):
    defaults = list(read(f"{group}/{name}").defaults)
    assert defaults.pop() == "_self_"
    assert defaults
    for entry in defaults:  # a schema, or a file of the same group that brings one
        assert entry.startswith(f"/schema/{group}") or entry in names(group), entry


def test_the_root_names_its_schema_then_the_groups_then_itself_then_the_experiment():
    defaults = plain(read("train"))["defaults"]
    assert defaults[0] == "/schema/experiment@_here_"
    assert [next(iter(entry)) for entry in defaults[1:-4]] == PARTS
    ours = [{"override hydra/launcher": "local"}, {"override hydra/sweeper": "grid"}]
    assert defaults[-4:] == ["_self_", {"experiment": None}, *ours]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_global_and_overrides_its_groups(name):
    text = (CONF / f"experiment/{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    entries = [next(iter(entry)) for entry in plain(read(f"experiment/{name}"))["defaults"]]
    assert entries
    assert set(entries) <= {f"override /{group}" for group in PARTS}


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_value_of_a_file_is_the_value_of_the_run(values_of, group, name):
    run = values_of(group, name)
    values = written(f"{group}/{name}")
    assert {key: run[key] for key in values} == values


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_value_of_a_run_is_written_in_its_file(values_of, group, name):
    """Schemas have no values of their own but the name of the class."""
    files = [f"{group}/{name}"]
    while parents := [e for e in read(files[-1]).get("defaults", []) if e in names(group)]:
        files += [f"{group}/{parent}" for parent in parents]
    run = values_of(group, name)
    assert {key for key in run if not key.endswith("_target_")} == {key for file in files for key in written(file)}


def test_every_value_of_the_root_is_the_value_of_the_run(composed):
    assert {key: composed()[key] for key in written("train")} == {"seed": 0, "d_model": 64}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_of_an_experiment_wins_over_the_root_and_the_groups(composed, name):
    run = dict(leaves(plain(composed(f"experiment={name}"))))
    values = written(f"experiment/{name}")
    assert {key: run[key] for key in values} == values
    base = dict(leaves(plain(composed())))
    assert values["d_model"] != base["d_model"]  # else winning over the root would not be seen
    assert values["training.epochs"] != base["training.epochs"]


def test_an_own_experiment_wins_over_every_value_of_the_root(composed, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /backbone: dlinear\n"
        "seed: 5\nd_model: 32\nbackbone:\n  moving_average: 7\n"
    )
    cfg = composed(f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine")
    assert (cfg.seed, cfg.d_model, cfg.backbone.moving_average) == (5, 32, 7)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("d_model=512", "d_model", 512),
        ("backbone.n_heads=4", "backbone.n_heads", 4),
        ("data.window=2048", "data.window", 2048),
        ("training.global_batch_size=64", "training.global_batch_size", 64),
    ],
)
def test_a_value_of_the_command_line_wins_over_the_experiment(composed, override, key, value):
    cfg = composed("experiment=foundation/patchtst", override)
    assert OmegaConf.select(cfg, key) == value
    assert OmegaConf.select(composed("experiment=foundation/patchtst"), key) != value


@pytest.mark.parametrize("order", [1, -1])
def test_a_group_of_the_command_line_wins_over_the_experiment(composed, order):
    """In whichever order they are typed."""
    cfg = composed(*["experiment=foundation/dlinear_debug", "backbone=patchtst", "task=classification"][::order])
    assert "e_layers" in cfg.backbone
    assert list(cfg.task) == ["classification"]


@pytest.mark.parametrize("name", FOUNDATION)
def test_a_foundation_run_has_the_standard_sizes(composed, name):
    cfg = composed(f"experiment={name}")
    debug = name.endswith("_debug")
    assert cfg.data.window == (2048 if debug else 4096)
    assert cfg.training.global_batch_size == (16 if debug else 128)
    assert set(cfg.task) == {"classification", "anomaly_detection", "signal_prediction", "rul_prediction"}
    if not debug:
        assert cfg.d_model == 1024


def test_the_foundation_transformer_has_the_standard_sizes(composed):
    cfg = composed("experiment=foundation/patchtst")
    assert (cfg.backbone.n_heads, cfg.backbone.e_layers, cfg.backbone.d_ff) == (8, 3, 2048)


@pytest.mark.parametrize("backbone", ["dlinear", "timesnet", "patchtst", "fno"])
def test_every_backbone_of_the_bug_reports_has_its_foundation_runs(backbone):
    assert {f"foundation/{backbone}", f"foundation/{backbone}_debug"} <= set(EXPERIMENTS)


# how the jobs of a sweep are sent off: no part of an experiment, and shipped in the same way


OWN = [  # of Hydra's groups: folder, name, schema
    *(("launcher", name, schema) for name, schema in launcher.SCHEMAS.items()),
    *(("sweeper", name, schema) for name, schema in sweeper.SCHEMAS.items()),
]
EACH_OF_HYDRAS = pytest.mark.parametrize(("group", "name", "schema"), OWN)


def target(schema: type) -> str:
    return next(field.default for field in fields(schema) if field.name == "_target_")


@pytest.fixture(scope="module")
def chosen(composed: Callable[..., DictConfig]) -> Callable[..., dict[str, object]]:
    """The values of a group of Hydra's when an option is chosen; each composed once."""

    @cache
    def call(group: str, name: str) -> dict[str, object]:
        with initialize_config_module("vibench.conf", version_base="1.3"):
            cfg = compose("train", [f"hydra/{group}={name}"], return_hydra_config=True)
        return dict(leaves(plain(cfg.hydra[group])))

    return call


def test_every_schema_of_a_launcher_or_a_sweeper_has_its_file_and_every_file_its_schema():
    assert {f"{group}/{name}" for group, name, _ in OWN} == set(names("hydra"))


@EACH_OF_HYDRAS
def test_a_file_for_hydra_names_its_schema_first_and_itself_last(group, name, schema):
    assert list(read(f"hydra/{group}/{name}").defaults) == [f"/schema/{group}/{name}@_here_", "_self_"]


@EACH_OF_HYDRAS
def test_every_value_of_a_file_for_hydra_is_the_one_that_counts_and_every_key_has_one(chosen, group, name, schema):
    values = dict(leaves({k: v for k, v in plain(read(f"hydra/{group}/{name}")).items() if k != "defaults"}))
    found = chosen(group, name)
    assert found == values | {"_target_": target(schema)}


@EACH_OF_HYDRAS
def test_what_a_file_for_hydra_names_as_its_class_is_there(group, name, schema):
    module, _, own = target(schema).rpartition(".")
    assert issubclass(getattr(importlib.import_module(module), own), Plugin)


@EACH_OF_HYDRAS
def test_every_key_for_hydra_says_what_it_means(group, name, schema):
    assert all(field.metadata["meaning"] for field in fields(schema) if field.name != "_target_")


def test_this_machine_is_the_launcher_that_nobody_has_to_name(composed):
    with initialize_config_module("vibench.conf", version_base="1.3"):
        cfg = compose("train", [], return_hydra_config=True)
    assert (cfg.hydra.launcher.name, cfg.hydra.runtime.choices["hydra/launcher"]) == ("local", "local")


@pytest.mark.parametrize("name", list(launcher.SCHEMAS))
def test_a_launcher_is_named_as_its_file(chosen, name):
    assert chosen("launcher", name)["name"] == name


def test_nothing_is_left_out_or_run_twice_unless_somebody_said_so(chosen):
    """Refused jobs stop a sweep; where a queue is shared, the same config is not queued again."""
    assert [chosen("launcher", name)["skip_refused"] for name in ("local", "slurm")] == [False, False]
    assert [chosen("launcher", name)["on_duplicate"] for name in ("local", "slurm")] == ["allow", "skip"]
