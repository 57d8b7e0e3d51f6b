"""What is refused before anything is started: every kind of mistake in every group, each with its full key.

The mistakes go the way of the command line: ``vibench.cli.train.check`` does nothing but these two calls.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from vibench.config import schemas
from vibench.config.compose import compose_all
from vibench.config.describe import GROUPS
from vibench.config.resolve import examine

CONF = Path(__file__).parents[2] / "conf"

# command line, key that the complaint starts with, what it says of it
MISTAKES = {
    "root": [
        ("seed=???", "seed", "is missing"),
        ("seed=null", "seed", "not Optional"),
        ("seed=a", "seed", "a whole number"),
        ("seed=1.5", "seed", "a whole number"),
        ("seed=nan", "seed", "a whole number"),
        ("seed=-1", "seed", "at least 0"),
        ("seed=4294967296", "seed", "out of range"),
        ("sed=1", "sed", "did you mean seed?"),
        ("+sed=1", "sed", "did you mean seed?"),
        ("+seed=1", "seed", "already"),
        ("+extra.deep=1", "extra", "is not a key of ExperimentConfig"),
        ("~seed", "seed", ""),
        ("~d_model", "d_model", ""),
        ("d_model=???", "d_model", "is missing"),
        ("d_model=wide", "d_model", "a whole number"),
        ("d_model=0", "d_model", "at least 1"),
        ("d_model=65", "d_model", "not divisible by backbone.n_heads=4; use d_model=64"),
        ("backbon=patchtst", "backbon", "did you mean backbone?"),
    ],
    "backbone": [
        ("backbone=patchts", "backbone", "did you mean patchtst?"),
        ("backbone=nothing_like_it", "backbone", "there are bimamba_gnn, dlinear, fno, mamba2, patchtst"),
        ("backbone=???", "backbone", ""),
        ("backbone=null", "backbone", "one file in conf/backbone"),
        ("backbone=5", "backbone", "one file in conf/backbone"),
        ("+backbone=dlinear", "backbone", ""),
        ("~backbone", "backbone", "is missing"),
        ("backbone.e_layers=???", "backbone.e_layers", "is missing: encoder blocks (at least 1)"),
        ("backbone.e_layers=0", "backbone.e_layers", "at least 1"),
        ("backbone.e_layers=2.5", "backbone.e_layers", "a whole number"),
        ("backbone.e_layers=true", "backbone.e_layers", "a whole number"),
        ("backbone.e_layers=[1]", "backbone.e_layers", "a whole number"),
        ("backbone.e_layers=null", "backbone.e_layers", "not Optional"),
        ("backbone.e_layer=3", "backbone.e_layer", "did you mean backbone.e_layers?"),
        ("+backbone.e_layer=3", "backbone.e_layer", "did you mean backbone.e_layers?"),
        ("+backbone.typo=3", "backbone.typo", "is not a key of PatchTSTConfig; it has"),
        ("+backbone.typo.deep=3", "backbone.typo", "is not a key of PatchTSTConfig"),
        ("++backbone.typo=3", "backbone.typo", "is not a key of PatchTSTConfig"),
        ("+backbone.e_layers=4", "backbone.e_layers", "already"),
        ("~backbone.e_layers", "backbone.e_layers", "is mandatory"),
        ("~backbone.nothing", "backbone.nothing", "does not exist"),
        ("backbone.n_heads=3", "d_model", "not divisible by backbone.n_heads=3"),
        ("backbone.dropout=1.0", "backbone.dropout", "at most 0.99"),
        ("backbone.dropout=-0.1", "backbone.dropout", "at least 0"),
        ("backbone.dropout=nan", "backbone.dropout", "not a finite number"),
        ("backbone.dropout=inf", "backbone.dropout", "not a finite number"),
        ("backbone.dropout=much", "backbone.dropout", "give a number"),
        ("backbone._target_=os.system", "backbone._target_", "is not vibench.backbones.patchtst.PatchTST"),
        ("backbone._target_=???", "backbone._target_", ""),
        ("backbone.d_model=64", "backbone.d_model", "does not exist"),
        ("backbone=dlinear backbone.e_layers=3", "backbone.e_layers", "there are _target_, moving_average"),
        ("backbone=dlinear backbone.moving_average=24", "backbone.moving_average", "even"),
        ("backbone=dlinear backbone.moving_average=99", "backbone.moving_average", "an odd number up to 61"),
    ],
    "embedding": [
        ("embedding=pach", "embedding", "did you mean patch?"),
        ("~embedding", "embedding", ""),
        ("embedding.patch_len=???", "embedding.patch_len", "is missing: samples in a patch"),
        ("embedding.patch_len=2048", "embedding.patch_len", "exceeds data.window=1024"),
        ("embedding.stride=65", "embedding.stride", "exceeds embedding.patch_len=64"),
        ("embedding.stride=0", "embedding.stride", "at least 1"),
        ("embedding.stride=a", "embedding.stride", "a whole number"),
        ("embedding.strid=3", "embedding.strid", "did you mean embedding.stride?"),
        ("+embedding.foo=1", "embedding.foo", "is not a key of PatchConfig"),
        ("~embedding.stride", "embedding.stride", "is mandatory"),
        ("embedding=pointwise embedding.kernel=4", "embedding.kernel", "is even"),
        ("embedding=pointwise embedding.kernel=1025", "embedding.kernel", "exceeds data.window=1024"),
        ("embedding=hse embedding.num_patches=0", "embedding.num_patches", "at least 1"),
        ("embedding=hse embedding.patch_size_l=1025", "embedding.patch_size_l", "exceeds data.window=1024"),
        ("embedding=hse embedding.patch_size_c=0", "embedding.patch_size_c", "at least 1"),
        ("embedding=hse embedding.patch_len=4", "embedding.patch_len", "does not exist"),
    ],
    "task": [
        ("task=clasification", "task", "did you mean classification?"),
        ("~task", "task", ""),
        ("~task.clasification", "task.clasification", "does not exist"),
        ("task.classification=null", "task.classification", "not Optional"),
        ("task.classification.weight=0", "task.classification.weight", "above 0"),
        ("task.classification.weight=nan", "task.classification.weight", "not a finite number"),
        ("task.classification.weight=heavy", "task.classification.weight", "give a number"),
        ("task.classification.weight=???", "task.classification.weight", "is missing"),
        ("task.classification.wieght=1", "task.classification.wieght", "did you mean task.classification.weight?"),
        ("+task.classification.extra=1", "task.classification.extra", "is not a key of ClassificationConfig"),
        ("~task.classification.weight", "task.classification.weight", "is mandatory"),
        ("task.classification.label_smoothing=1", "task.classification.label_smoothing", "at most 0.99"),
        ("task.classification._target_=x", "task.classification._target_", "leave it out"),
        ("+task.regression.weight=1", "task.regression.weight", ""),
        ("task.anomaly_detection.threshold=1", "task.anomaly_detection.threshold", "at most 0.99"),
        ("task.signal_prediction.horizon=0", "task.signal_prediction.horizon", "at least 1"),
        ("task.signal_prediction.horizon=100", "task.signal_prediction.horizon", "use a horizon of 96"),
        ("task.rul_prediction.max_rul_s=inf", "task.rul_prediction.max_rul_s", "not a finite number"),
        ("task=classification task.rul_prediction.max_rul_s=1", "task.rul_prediction", "does not exist"),
        (
            "~task.classification ~task.anomaly_detection ~task.signal_prediction ~task.rul_prediction",
            "task",
            "is empty",
        ),
    ],
    "data": [
        ("data=dmeo", "data", "did you mean demo?"),
        ("~data", "data", ""),
        ("data=cwru", "data.store", "is missing: HDF5 file"),
        ("data=femto data.store=/nowhere.h5", "data.store", "does not exist; make it with `vibench-data prepare"),
        ("data.store=a.h5", "data.store", "does not exist"),
        ("data=cwru data.store=/", "data.store", "is a folder"),
        (f"data=cwru data.store={__file__}", "data.store", "is not an HDF5 file"),
        ("data.window=???", "data.window", "is missing: samples a model sees at once"),
        ("data.window=long", "data.window", "a whole number"),
        ("data.window=5900", "data.window", "exceed the 6000 samples of a recording"),
        ("data.widow=5", "data.widow", "did you mean data.window?"),
        ("+data.widow=5", "data.widow", "did you mean data.window?"),
        ("~data.window", "data.window", "is mandatory"),
        ("data.normalisation=zscore", "data.normalisation", "none, window, recording, train"),
        ("data.label=null", "data.label", "not Optional"),
        ("data.only=5", "data.only", ""),
        ("+data.only.fault=normal", "data.only.fault", "not a ListConfig"),
        ("data.allow_leaky=maybe", "data.allow_leaky", "not a valid bool"),
        ("data.workers=-1", "data.workers", "at least 0"),
        ("data.workers=2 hardware.cpus=1", "data.workers", "exceeds the 1 CPU cores of hardware=local"),
        ("data.bearings_per_class=2", "data.bearings_per_class", "at least 3"),
        ("data.conditions=7", "data.conditions", "at most 6"),
        ("data.duration_s=0.05", "data.window", "data.duration_s=0.05"),
        ("data.duration_s=nan", "data.duration_s", "not a finite number"),
        ("data.duration_s=inf", "data.duration_s", "not a finite number"),
        ("data.split.by=???", "data.split.by", "is missing"),
        ("data.split=null", "data.split", "not Optional"),
        ("data.split.seeed=1", "data.split.seeed", "did you mean data.split.seed?"),
        ("+data.split.foo=1", "data.split.foo", "is not a key of SplitConfig"),
        ("~data.split.by", "data.split.by", "is mandatory"),
        ("data.split.fractions=[]", "data.split.fractions", "three shares"),
        ("data.split.fractions=[0.6]", "data.split.fractions", "three shares"),
        ("data.split.fractions=[0.5,0.5]", "data.split.fractions", "three shares"),
        ("data.split.fractions=[0.5,0.5,0.5]", "data.split.fractions", "sum to 1"),
        ("data.split.fractions=[0,0.5,0.5]", "data.split.fractions", "leaves train or test empty"),
        ("data.split.fractions=[nan,0.5,0.5]", "data.split.fractions", "not a finite number"),
        ("data.split.fractions=[a,b,c]", "data.split.fractions", "give a number"),
        ("data.split.train=[a] training.monitor=null", "data.split", "names no test"),
        ("data.split.train=[a] data.split.val=[a] data.split.test=[b]", "data.split.train", "both name a"),
        (
            "data.split.by=time data.split.train=[a] data.split.val=[c] data.split.test=[b]",
            "data.split.by",
            "takes data.split.fractions",
        ),
    ],
    "hardware": [
        ("hardware=rtx309", "hardware", "did you mean rtx3090?"),
        ("~hardware", "hardware", ""),
        ("hardware.name=???", "hardware.name", "is missing"),
        ("hardware.device=gpu", "hardware.device", "auto, cpu, cuda"),
        ("hardware.device=cuda", "hardware.device", "needs hardware.gpu_memory_gib"),
        ("hardware=rtx3090 hardware.compute_capability=null", "hardware.device", "hardware.compute_capability"),
        ("hardware.gpu_memory_gib=0", "hardware.gpu_memory_gib", "above 0"),
        ("hardware.gpu_memory_gib=nan", "hardware.gpu_memory_gib", "not a finite number"),
        ("hardware.gpu_memory_gib=big", "hardware.gpu_memory_gib", "give a number"),
        ("hardware.usable_share=1.1", "hardware.usable_share", "at most 1"),
        ("hardware.context_mib=1.5", "hardware.context_mib", "a whole number"),
        ("hardware.cpus=0", "hardware.cpus", "at least 1"),
        ("hardware.gpus=0", "hardware.gpus", "at least 1"),
        ("hardware.gpus=3", "training.global_batch_size", "use training.global_batch_size=33"),
        ("hardware.ram_gib=0", "hardware.ram_gib", "above 0"),
        ("hardware.measured_share=1.1", "hardware.measured_share", "at most 1"),
        ("hardware.bandwidth_gbs=fast", "hardware.bandwidth_gbs", "give a number"),
        ("hardware.slurm=null", "hardware.slurm", "not Optional"),
        ("hardware.slurm.time=5", "hardware.slurm.time", "e.g. 1-12:00:00"),
        ("hardware.slurm.time=00:00:00", "hardware.slurm.time", "leaves no time to run"),
        ("hardware.slurm.tim=1", "hardware.slurm.tim", "did you mean hardware.slurm.time?"),
        ("+hardware.slurm.tim=1", "hardware.slurm.tim", "did you mean hardware.slurm.time?"),
        ("hardware.cpu=1", "hardware.cpu", "did you mean hardware.cpus?"),
        ("+hardware.cpu=1", "hardware.cpu", "did you mean hardware.cpus?"),
        ("~hardware.device", "hardware.device", "is mandatory"),
    ],
    "training": [
        ("training=defualt", "training", "did you mean default?"),
        ("~training", "training", ""),
        ("training.epochs=???", "training.epochs", "is missing: passes over the training windows"),
        ("training.epochs=0", "training.epochs", "at least 1"),
        ("training.epochs=1.5", "training.epochs", "a whole number"),
        ("training.epoch=3", "training.epoch", "did you mean training.epochs?"),
        ("+training.epoch=3", "training.epoch", "did you mean training.epochs?"),
        ("~training.lr", "training.lr", "is mandatory"),
        ("training.lr=0", "training.lr", "above 0"),
        ("training.lr=nan", "training.lr", "not a finite number"),
        ("training.lr=1e-3x", "training.lr", "give a number"),
        ("training.clip_norm=inf", "training.clip_norm", "not a finite number"),
        ("training.weight_decay=-1", "training.weight_decay", "at least 0"),
        ("training.max_steps=20", "training.warmup_steps", "does not end before training.max_steps=20"),
        ("training.micro_batch=0", "training.micro_batch", "neither auto nor a whole number"),
        ("training.micro_batch=atuo", "training.micro_batch", "neither auto nor a whole number"),
        ("training.micro_batch=64", "training.micro_batch", "exceeds training.global_batch_size=32"),
        ("training.accumulation=many", "training.accumulation", "neither auto nor a whole number"),
        ("training.micro_batch=8 training.accumulation=2", "training.micro_batch", "use training.accumulation=4"),
        # no micro-batch cuts 32 windows into 31 parts: the planner would silently make them 16
        ("training.accumulation=31", "training.accumulation", ""),
        ("training.precision=fp8", "training.precision", "auto, fp32, bf16, fp16"),
        ("training.precision=bf16 hardware=v100", "training.precision", "not available on hardware=v100"),
        ("training.optimizer=adamv", "training.optimizer", "adamw, adam, sgd"),
        ("training.optimizer_state=int4", "training.optimizer_state", "auto, device, int8, host"),
        ("training.optimizer_state=int8 training.optimizer=sgd", "training.optimizer_state", "is AdamW's alone"),
        ("training.optimizer_state=host training.precision=fp16", "training.optimizer_state", "loss scaling"),
        ("training.optimizer_state=int8 training.precision=fp16", "training.optimizer_state", "loss scaling"),
        ("training.sharding=half", "training.sharding", "auto, none, full"),
        ("training.sharding=full", "training.sharding", "needs more cards than hardware.gpus=1"),
        ("training.sharding=full hardware.gpus=2 training.precision=fp16", "training.sharding", "loss scaling"),
        (
            "training.sharding=full hardware.gpus=2 training.optimizer_state=host",
            "training.optimizer_state",
            "use training.optimizer_state=device",
        ),
        ("hardware.gpus=2 training.micro_batch=17", "training.micro_batch", "use training.micro_batch<=16"),
        ("training.schedule=cosin", "training.schedule", "constant, linear, cosine"),
        ("training.monitor=classification/acuracy", "training.monitor", "did you mean classification/accuracy?"),
        ("task=classification training.monitor=rul_prediction/mae", "training.monitor", "no enabled task"),
        ("data.split.fractions=[0.8,0,0.2]", "training.monitor", "needs a validation split"),
        ("training.monitor=null training.patience=3", "training.patience", "nothing to watch"),
    ],
    "logger": [
        ("logger=csvv", "logger", "did you mean csv?"),
        ("~logger", "logger", ""),
        ("logger.writer=???", "logger.writer", "is missing"),
        ("logger.writer=wandb", "logger.writer", "csv, tensorboard"),
        ("logger.every_n_steps=0", "logger.every_n_steps", "at least 1"),
        ("logger.every_n_steps=often", "logger.every_n_steps", "a whole number"),
        ("logger.every_n_step=3", "logger.every_n_step", "did you mean logger.every_n_steps?"),
        ("+logger.foo=1", "logger.foo", "is not a key of LoggerConfig"),
        ("~logger.writer", "logger.writer", "is mandatory"),
    ],
    "experiment": [
        ("experiment=foundation/patchts", "experiment", "did you mean foundation/patchtst?"),
        ("experiment=patchtst", "experiment", "foundation/patchtst"),
        ("+experiment=foundation/patchtst", "experiment", ""),
        ("experiment=foundation/patchtst backbone.n_heads=7", "d_model", "=1024 is not divisible"),
        ("experiment=foundation/patchtst_debug training.epochs=0", "training.epochs", "at least 1"),
        ("experiment=foundation/dlinear_debug backbone.e_layers=2", "backbone.e_layers", "does not exist"),
    ],
}
UNRESOLVED = ["${nothing}", "${backbone.nothing}", "${oc.env:VIBENCH_NOT_SET}", "${no_resolver:1}", "${backbone.d_ff}"]


@pytest.fixture(scope="module")
def complaints(cache: Path) -> Callable[..., list[str]]:
    """All that the command line says about overrides."""
    schemas.register()

    def call(*overrides: str) -> list[str]:
        cfg, said = compose_all(list(overrides))
        return said + (examine(cfg)[0] if cfg is not None else [])

    return call


def leaves(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys of the values below a node."""
    for key, value in OmegaConf.to_container(node, enum_to_str=True, resolve=False).items():
        if isinstance(value, dict) and value:
            yield from leaves(node[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def starts_with(key: str) -> re.Pattern[str]:
    return re.compile(rf"[+~]*{re.escape(key)}(?![\w.])")


def test_the_shipped_defaults_are_accepted(complaints):
    """Else every refusal below could be for another reason."""
    assert complaints() == []


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [pytest.param(*mistake, id=mistake[0]) for mistakes in MISTAKES.values() for mistake in mistakes],
)
def test_a_mistake_is_refused_with_its_key(complaints, line, key, words):
    said = complaints(*line.split())
    assert len(said) == 1, said
    assert starts_with(key).match(said[0]), said[0]
    assert words in said[0]


def test_every_group_has_its_mistakes():
    assert set(MISTAKES) == {"root", *GROUPS}


@pytest.mark.parametrize("value", UNRESOLVED)
def test_an_interpolation_that_cannot_be_resolved_is_refused(complaints, value):
    said = complaints(f"backbone.d_ff={value}")
    assert len(said) == 1, said
    assert starts_with("backbone.d_ff").match(said[0])


def test_an_interpolation_is_held_to_the_range_of_its_key(complaints):
    assert complaints("backbone.d_ff=${seed}") == [
        "backbone.d_ff=0 is out of range: hidden width of the feed-forward layer; use a value at least 1"
    ]


def test_the_mistakes_of_one_command_line_are_reported_at_once(complaints):
    wrong = {
        "logger": "logger=csvv",  # groups: Hydra stops at the first
        "hardware": "hardware=rtx309",
        "backbone.e_layers": "backbone.e_layers=three",  # types
        "embedding.strid": "embedding.strid=3",  # keys
        "data.widow": "+data.widow=3",
        "task.clasification": "~task.clasification",
        "training.epochs": "training.epochs=0",  # ranges
        "data.label": "data.label=???",  # missing
        "data.cache_dir": "data.cache_dir=${nothing}",  # interpolations
        "d_model": "d_model=65",  # rules between fields
        "training.monitor": "training.monitor=nothing",
    }
    said = complaints(*wrong.values())
    assert len(said) == len(wrong), said
    for key in wrong:
        assert any(starts_with(key).match(complaint) for complaint in said), key


def test_every_key_left_out_is_named_at_once(complaints, composed):
    keys = [key for key in leaves(composed()) if not key.endswith("_target_")]
    assert len(keys) > 40
    said = complaints(*(f"{key}=???" for key in keys))
    assert sorted(complaint.split(" ")[0] for complaint in said) == sorted(keys)
    assert all(
        " is missing: " in complaint and f"set {complaint.split(' ')[0]}=VALUE" in complaint for complaint in said
    )


@pytest.mark.parametrize("sign", ["", "+"])
def test_every_misspelt_key_is_answered_with_the_right_one(complaints, composed, sign):
    keys = [key for key in leaves(composed()) if len(key.split(".")[-1]) > 3 and not key.endswith("_target_")]
    said = complaints(*(f"{sign}{key[:-2]}{key[-1]}=1" for key in keys))
    assert len(said) == len(keys)
    for key in keys:
        assert any(
            starts_with(f"{key[:-2]}{key[-1]}").match(complaint) and f"did you mean {key}?" in complaint
            for complaint in said
        ), key


def test_an_experiment_and_another_backbone_are_told_which_keys_do_not_fit(complaints):
    (said,) = complaints("experiment=foundation/patchtst", "backbone=dlinear")
    assert re.search(r"backbone\.(e_layers|n_heads|d_ff)", said), said


@pytest.mark.parametrize("line", ["seed=1,2", "training.lr=choice(0.1,0.2)", "backbone=patchtst,dlinear"])
def test_a_sweep_without_its_flag_is_told_the_flag(complaints, line):
    (said,) = complaints(line)
    assert said.startswith(line)
    assert "-m" in said


@pytest.mark.parametrize("line", ["seed", "seed=[1", "seed==1", "data.label={a"])
def test_what_cannot_be_read_is_told_how_to_write_it(complaints, line):
    (said,) = complaints(line)
    assert said.startswith(line)
    assert "write KEY=VALUE" in said


def test_a_limit_is_written_out(complaints):
    (said,) = complaints("seed=4294967296")
    assert "at most 4294967295" in said


@pytest.mark.parametrize(
    "line",
    [
        "d_model=65",
        "backbone=dlinear backbone.moving_average=24",
        "embedding.patch_len=2048",
        "embedding.stride=65",
        "embedding=pointwise embedding.kernel=4",
        "embedding=pointwise embedding.kernel=1025",
        "embedding=hse embedding.patch_size_l=1025",
        "data.window=5900",
        "data.workers=2 hardware.cpus=1",
        "hardware.gpus=3",
        "training.optimizer_state=int8 training.optimizer=sgd",
        "training.optimizer_state=host training.precision=fp16",
        "training.sharding=full hardware.gpus=2 training.precision=fp16",
        "training.sharding=full hardware.gpus=2 training.optimizer_state=host",
        "hardware.gpus=2 training.micro_batch=17",
        "training.micro_batch=64",
        "training.micro_batch=8 training.accumulation=2",
        "training.max_steps=20",
    ],
)
def test_each_remedy_of_a_complaint_works(complaints, line):
    """Every KEY=VALUE that a complaint recommends (KEY<=VALUE: its limit) makes the experiment acceptable."""
    (said,) = complaints(*line.split())
    remedies = re.findall(r"([a-z_.]+)[<>]?=([\w.]+)", said.rpartition("; use ")[2])
    assert remedies, said
    for key, value in remedies:
        assert complaints(*line.split(), f"{key}={value}") == [], f"{key}={value} after: {said}"


def test_the_longest_moving_average_recommended_is_accepted(complaints):
    (said,) = complaints("backbone=dlinear", "backbone.moving_average=99")
    longest = re.search(r"(\d+)$", said)[1]
    assert complaints("backbone=dlinear", f"backbone.moving_average={longest}") == [], said


@pytest.mark.parametrize(
    "line",
    [
        "embedding.patch_len=0",
        "training.max_steps=0",
        "data.duration_s=0",
        "data.window=1000 task.signal_prediction.horizon=6400",
    ],
)
def test_no_remedy_is_itself_out_of_range(complaints, line):
    said = complaints(*line.split())
    assert said
    assert not [complaint for complaint in said if re.search(r"<=(0|-\d+)\b", complaint)], said


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str, str], str]:
    """Copy a shipped YAML, changed, into a folder of one's own; returns the flag that names the folder."""

    def call(source: str, old: str, new: str) -> str:
        text = (CONF / source).read_text()
        assert old in text
        path = tmp_path / "own" / Path(source).parent / "mine.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text.replace(old, new))
        return f"--config-dir={tmp_path / 'own'}"

    return call


def refused(result, *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert re.search(word, result.stderr), result.stderr


def test_an_own_backbone_without_a_key_is_refused_by_its_key(vibench, own):
    folder = own("backbone/patchtst.yaml", "e_layers: 3\n", "")
    refused(vibench("train", folder, "backbone=mine"), r"backbone\.e_layers is missing: encoder blocks \(at least 1\)")


def test_an_own_backbone_with_an_unknown_key_is_refused_by_its_key(vibench, own):
    folder = own("backbone/patchtst.yaml", "e_layers: 3\n", "e_layers: 3\ne_layer: 3\n")
    refused(vibench("train", folder, "backbone=mine"), r"backbone\.e_layer\b", "backbone/mine")


def test_an_own_backbone_with_a_wrong_type_is_refused_by_its_key(vibench, own):
    folder = own("backbone/patchtst.yaml", "e_layers: 3\n", "e_layers: three\n")
    refused(vibench("train", folder, "backbone=mine"), r"backbone\.e_layers\b", "three", "backbone/mine")


def test_an_own_backbone_without_its_schema_is_refused_by_its_key(vibench, own):
    folder = own("backbone/patchtst.yaml", "  - /schema/backbone/patchtst@_here_\n", "")
    refused(vibench("train", folder, "backbone=mine"), r"backbone\.e_layers\b", "backbone/mine")


def test_an_own_experiment_with_a_wrong_type_is_refused_by_its_key(vibench, own):
    folder = own("experiment/foundation/dlinear_debug.yaml", "d_model: 128", "d_model: wide")
    refused(vibench("train", folder, "experiment=foundation/mine"), "d_model", "wide", "foundation/mine")
