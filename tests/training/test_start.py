"""Weights to start from: what is taken over, what is left alone, what is refused, and what of it the test has seen."""

import copy
import json
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY
from tests.model.batches import SIZES
from tests.test_import_cost import loaded_by
from vibench.data.build import build
from vibench.errors import ConfigError, DataError, VibenchError
from vibench.memory.plan import GIB
from vibench.memory.plan import fit as plan_memory
from vibench.model import build_model, targets
from vibench.report.status import Stopped, recorded
from vibench.run import run_experiment
from vibench.training.checkpoints import read_checkpoint, weights_of
from vibench.training.start import start_from

DRAWN = (  # no forecast: its horizon is no key of a single task
    *(option for option in TINY if "horizon" not in option),
    "backbone=dlinear",
    "backbone.moving_average=3",
    "embedding.stride=64",
    "training.warmup_steps=0",
    "training.monitor=null",
)
NAMED = (*DRAWN, "data.normalisation=window", "training.global_batch_size=4")
FREEZE = "training.freeze=[embedding,backbone]"
BODY = ("embedding.", "backbone.")


def split(number, test=2, machine="motor", faults=("healthy", "inner")):
    """Train on one bearing of each fault, test on another."""
    return [
        f"data.split.{part}=[{','.join(f'{machine}-{fault}-{n}' for fault in faults)}]"
        for part, n in (("train", number), ("test", test))
    ]


@pytest.fixture(scope="module")
def run(resolved, tmp_path_factory):
    """Run an experiment to its end; its directory."""

    def call(*overrides):
        folder = tmp_path_factory.mktemp("run")
        run_experiment(resolved(*overrides), folder)
        return folder

    return call


@pytest.fixture(scope="module")
def source(run):
    """A run that tells healthy from inner bearings."""
    return run(*NAMED, "task=classification", *split(0))


@pytest.fixture
def begin(resolved):
    """A model with fresh weights, one that starts as resolved, and what is said of its start."""

    def call(*overrides):
        config = resolved(*overrides)
        data = build(config.data, targets(config))
        torch.manual_seed(0)
        fresh = build_model(config, n_channels=data.n_channels, n_classes=len(data.classes))
        model = copy.deepcopy(fresh)
        start = start_from(model, config, data.classes)
        return fresh.state_dict(), model.state_dict(), start

    return call


def weights(path, *prefixes):
    """The weights of a checkpoint file, or of the one that a run was tested with."""
    path = Path(path)
    if path.is_dir():
        path = path / status(path)["checkpoint"]
    every = weights_of(read_checkpoint(path))
    return {name: value for name, value in every.items() if not prefixes or name.startswith(prefixes)}


def status(folder):
    return json.loads((folder / "status.json").read_text())


def same(found, expected, *prefixes):
    """Whether the weights under some names are equal to the bit; there must be some."""
    names = [name for name in {*found, *expected} if name.startswith(prefixes)]
    assert names
    return all(name in found and name in expected and torch.equal(found[name], expected[name]) for name in names)


# ---- what is taken over


@pytest.fixture(scope="module")
def two(run):
    """A run that was tested with its best checkpoint; the last one, beside it, is another."""
    validated = (*split(0), "data.split.val=[motor-healthy-1,motor-inner-1]", "training.monitor=loss")
    folder = run(*NAMED, "task=classification", *validated)
    best, last = folder / "checkpoints" / "best.ckpt", folder / "checkpoints" / "last.ckpt"
    content = torch.load(best, weights_only=True)
    content["state_dict"] = {name: value + 1 for name, value in content["state_dict"].items()}
    torch.save(content, last)
    return folder, best, last


def test_a_run_gives_the_weights_that_it_was_tested_with(two, begin):
    folder, best, _ = two
    _, model, start = begin(*NAMED, "task=classification", *split(0), f"training.init_from={folder}")
    assert start["checkpoint"] == str(best)
    assert same(model, weights(best), *BODY)


def test_a_checkpoint_gives_its_own_weights(two, begin):
    _, _, last = two
    _, model, start = begin(*NAMED, "task=classification", *split(0), f"training.init_from={last}")
    assert start["checkpoint"] == str(last)
    assert same(model, weights(last), *BODY)


def test_embedding_and_backbone_are_taken_and_heads_are_fresh(source, begin):
    fresh, model, start = begin(*NAMED, "task=classification", *split(0), f"training.init_from={source}")
    assert same(model, weights(source), *BODY)
    assert same(model, fresh, "tasks.")
    assert not same(fresh, weights(source), *BODY)
    assert not same(fresh, weights(source), "tasks.")
    assert start["parts"] == ["embedding", "backbone"]


def test_a_part_that_is_not_named_is_fresh(source, begin):
    fresh, model, start = begin(
        *NAMED, "task=classification", *split(0), f"training.init_from={source}", "training.init_parts=[embedding]"
    )
    assert same(model, weights(source), "embedding.")
    assert same(model, fresh, "backbone.", "tasks.")
    assert start["parts"] == ["embedding"]


def test_of_the_heads_those_of_common_tasks_are_taken(source, begin):
    fresh, model, start = begin(
        *NAMED, "task=multitask", "~task.rul_prediction", "~task.signal_prediction", *split(0),
        f"training.init_from={source}", "training.init_parts=[embedding,backbone,tasks]",
    )  # fmt: skip
    assert same(model, weights(source), *BODY, "tasks.classification.")
    assert same(model, fresh, "tasks.anomaly_detection.")
    assert start["parts"] == ["embedding", "backbone", "tasks.classification"]


def test_without_a_source_every_weight_is_fresh(begin):
    fresh, model, start = begin(*NAMED, "task=classification", *split(0))
    assert same(model, fresh, *BODY, "tasks.")
    assert start is None


# ---- what does not fit


@pytest.fixture
def refused(resolved):
    """The complaints about what does not fit; nothing of the model may have changed."""

    def call(*overrides, base=NAMED):
        config = resolved(*base, *overrides)
        data = build(config.data, targets(config))
        model = build_model(config, n_channels=data.n_channels, n_classes=len(data.classes))
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ConfigError, match=r"training\.init_from=") as caught:
            start_from(model, config, data.classes)
        assert same(model.state_dict(), before, *BODY, "tasks.")
        return caught.value.complaints

    return call


def test_every_weight_of_another_shape_is_named_with_both_shapes(source, refused):
    assert refused("task=classification", *split(0), f"training.init_from={source}", "d_model=8") == [
        f"training.init_from={source}: embedding.project.bias is (16,) there, (8,) here",
        f"training.init_from={source}: embedding.project.weight is (16, 64) there, (8, 64) here",
    ]


def test_every_weight_of_another_backbone_is_named_and_the_embedding_that_fits_is_not_taken(source, refused):
    base = [option for option in NAMED if "backbone." not in option]
    options = ("task=classification", *split(0), f"training.init_from={source}", "backbone=tcn")
    said = refused(*options, base=base)
    theirs = [
        f"training.init_from={source}: {name} is {tuple(value.shape)} there, absent here"
        for name, value in weights(source, "backbone.").items()
    ]
    ours = [line for line in said if f"training.init_from={source}: backbone." in line and "is absent there, (" in line]
    assert ours
    assert sorted(said) == sorted([*theirs, *ours])


def test_a_head_of_another_shape_is_refused_where_heads_are_taken(source, refused, begin):
    three = ("task=classification", *split(0, faults=("healthy", "inner", "outer")), f"training.init_from={source}")
    said = refused(*three, "training.init_parts=[embedding,backbone,tasks]")
    assert said[0].endswith("tasks.classification.head.bias is (2,) there, (3,) here")
    begin(*NAMED, *three)  # the remedy: tasks are left out


def test_other_classes_of_the_same_count_are_refused_where_heads_are_taken(source, refused, begin):
    other = ("task=classification", *split(0, faults=("healthy", "outer")), f"training.init_from={source}")
    assert refused(*other, "training.init_parts=[embedding,backbone,tasks]") == [
        f"training.init_from={source}: its classes are healthy, inner, here they are healthy, outer; "
        "leave tasks out of training.init_parts"
    ]
    begin(*NAMED, *other)


def test_a_setting_that_fits_the_shapes_and_changes_what_weights_mean_is_refused(source, refused):
    """As another number of attention heads would."""
    said = refused("task=classification", *split(0), f"training.init_from={source}", "backbone.moving_average=5")
    assert said == [
        f"training.init_from={source}: backbone.moving_average is 3 there, 5 here; use backbone.moving_average=3"
    ]


def test_a_source_without_any_common_head_is_refused_where_only_heads_are_taken(source, refused):
    """Else the run would say that it started from another, and have taken nothing."""
    said = refused(
        "task=anomaly_detection", *split(0), f"training.init_from={source}", "training.init_parts=[tasks]"
    )  # fmt: skip
    assert len(said) == 1


def test_weights_of_something_else_are_refused_by_name(tmp_path, refused):
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"model.encoder.weight": torch.zeros(3)}}, path)
    said = refused("task=classification", *split(0), f"training.init_from={path}")
    assert all("is absent there, (" in line for line in said)


@pytest.mark.parametrize(
    "odd",
    [{"state_dict": [1]}, {"state_dict": {"model.embedding.project.weight": 1}}, {"vibench": [1]}],
    ids=["no dict of weights", "a weight that is none", "no dict of what it is"],
)
def test_a_checkpoint_of_odd_content_is_no_crash(source, tmp_path, begin, odd):
    path = tmp_path / "odd.ckpt"
    torch.save(torch.load(source / "checkpoints" / "last.ckpt", weights_only=True) | odd, path)
    with pytest.raises(VibenchError, match=r"odd\.ckpt"):
        begin(*NAMED, "task=classification", *split(0), f"training.init_from={path}")


# ---- what is left alone


@pytest.fixture
def checkpoint(source):
    """Any file will do: what these tests train was not begun with it."""
    return f"training.init_from={source / 'checkpoints' / 'last.ckpt'}"


BODIES = ("embedding=hse", "embedding.num_patches=8", "backbone.e_layers=1", "backbone.dropout=0.5")
SHORT = ("training.epochs=2", "training.global_batch_size=64", "training.warmup_steps=0", "training.lr=0.01")


def test_frozen_parts_stay_as_they_are_to_the_bit_while_the_heads_learn(train, checkpoint):
    run = train(checkpoint, FREEZE, "training.weight_decay=1", *BODIES, *SHORT)
    after = run.model.state_dict()
    assert same(after, run.before, *BODY)
    assert [name for name, value in after.items() if name.startswith("tasks.") and value.equal(run.before[name])] == []


@pytest.mark.parametrize(("frozen", "free"), [("embedding", "backbone"), ("backbone", "embedding")])
def test_a_part_that_is_not_frozen_learns_behind_or_before_one_that_is(train, checkpoint, frozen, free):
    run = train(checkpoint, f"training.freeze=[{frozen}]", *BODIES, *SHORT)
    after = run.model.state_dict()
    assert same(after, run.before, f"{frozen}.")
    assert not same(after, run.before, f"{free}.")
    assert not same(after, run.before, "tasks.")


def test_frozen_parts_are_in_eval_mode_in_every_step_of_every_epoch(train, checkpoint):
    """Also after a validation, from which a trainer brings its modules back."""
    modes = []

    def watch(model):
        def look(head, *_):
            if head.training:
                modes.append({m.training for part in (model.embedding, model.backbone) for m in part.modules()})

        model.tasks["classification"].register_forward_hook(look)

    train(checkpoint, FREEZE, *BODIES, *SHORT, watch=watch)
    assert modes == [{False}] * 4


@pytest.mark.parametrize("part", ["embedding", "backbone"])
def test_a_frozen_part_draws_no_random_number_and_a_free_one_does(train, checkpoint, part):
    def drawn(*overrides):
        states, kept = [], []

        def watch(model):
            module = getattr(model, part)
            module.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state()))
            module.register_forward_hook(lambda *_: kept.append(torch.equal(states[-1], torch.get_rng_state())))

        train(checkpoint, *BODIES, *SHORT, "training.max_steps=1", *overrides, watch=watch)
        return not kept[0]  # of the step; the others are of the validation

    assert drawn()
    assert not drawn(f"training.freeze=[{part}]")


def test_no_gradient_is_made_for_what_is_frozen(train, checkpoint):
    made, passed = set(), []

    def watch(model):
        model.backbone.register_full_backward_hook(lambda *_: passed.append(1))
        for name, parameter in model.named_parameters():
            parameter.register_hook(lambda _, name=name: made.add(name.split(".")[0]))

    train(checkpoint, FREEZE, *BODIES, *SHORT, watch=watch)
    assert made == {"tasks"}
    assert passed == []


def test_frozen_weights_are_not_in_the_optimizer(train, checkpoint):
    run = train(checkpoint, FREEZE, *BODIES, *SHORT)
    state = read_checkpoint(run.folder / "checkpoints" / "last.ckpt")["optimizer_states"][0]
    heads = [value.shape for name, value in run.model.named_parameters() if name.startswith("tasks.")]
    assert [moment["exp_avg"].shape for moment in state["state"].values()] == heads
    assert [len(group["params"]) for group in state["param_groups"]] == [len(heads)]


def test_one_head_alone_learns_where_everything_else_is_frozen(train, checkpoint):
    """In fp16 with micro-batches: there is no gradient to send through the backbone, and nothing may ask for one."""
    others = ("~task.anomaly_detection", "~task.signal_prediction", "~task.rul_prediction")
    run = train(
        checkpoint, FREEZE, *SHORT, *others, "training.precision=fp16", "training.micro_batch=7", "backbone.e_layers=1"
    )  # fmt: skip
    assert run.fitted.skipped_steps == 0
    assert same(run.model.state_dict(), run.before, *BODY)
    assert not same(run.model.state_dict(), run.before, "tasks.")


def test_freezing_is_no_reason_for_a_warning(train, checkpoint, recwarn):
    train(checkpoint, FREEZE, *BODIES, *SHORT)
    assert [str(warning.message) for warning in recwarn if "eval mode" in str(warning.message)] == []


def test_the_plan_counts_gradients_and_optimizer_state_of_trained_weights_only(tiny, checkpoint):
    config = tiny(checkpoint, FREEZE, "training.optimizer=adamw")
    model = build_model(config, **SIZES)
    every = sum(p.numel() for p in model.parameters())
    heads = sum(p.numel() for p in model.tasks.parameters())
    plan = plan_memory(config, **SIZES)
    assert plan.state_gib * GIB == pytest.approx(4 * every + (4 + 8) * heads)
    assert plan.parameters == every


# ---- what is refused before anything is loaded


@pytest.fixture
def refusal(resolved):
    """The one complaint about a source."""

    def call(source):
        with pytest.raises(ConfigError, match=r"^training\.init_from=") as caught:
            resolved(f"training.init_from={source}")
        (complaint,) = caught.value.complaints
        return complaint

    return call


@pytest.mark.parametrize(
    ("state", "end"), [("failed", DataError("no label")), ("cancelled", Stopped(15))], ids=["failed", "cancelled"]
)
def test_a_run_that_did_not_complete_is_no_source(tmp_path, refusal, state, end):
    with pytest.raises(type(end), match=str(end)), recorded(tmp_path, {}):
        raise end
    assert refusal(tmp_path) == (
        f"training.init_from={tmp_path} is a run that is {state}, not completed; "
        f"name a file in {tmp_path / 'checkpoints'} to use it"
    )


def test_a_run_that_is_not_yet_trained_is_no_source(tmp_path, refusal):
    with recorded(tmp_path, {}) as prove:
        assert f"training.init_from={tmp_path} is a run that is running, not completed; name " in refusal(tmp_path)
        prove({"checkpoint": "checkpoints/last.ckpt"})


def test_a_run_whose_checkpoint_was_deleted_is_no_source(tmp_path, refusal):
    with recorded(tmp_path, {}) as prove:
        prove({"checkpoint": "checkpoints/last.ckpt"})
    said = f"training.init_from={tmp_path} has no checkpoints/last.ckpt any more; name another run, or a checkpoint"
    assert refusal(tmp_path) == said


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"state": "completed"}', '{"state": "completed", "checkpoint": 5}']
)
def test_a_directory_of_something_else_is_no_source(tmp_path, refusal, content):
    if content is not None:
        (tmp_path / "status.json").write_text(content)
    assert f"training.init_from={tmp_path} " in refusal(tmp_path)


def test_a_path_that_leads_nowhere_is_no_source(refusal):
    said = "training.init_from=/nowhere/run does not exist; name the directory of a run, or a checkpoint"
    assert refusal("/nowhere/run") == said


def test_a_name_that_no_file_can_have_is_no_source(refusal):
    assert "does not exist" in refusal("a" * 300)


def test_a_source_that_is_refused_costs_no_torch(tmp_path):
    code = "from vibench.cli.train import main; main()"
    assert loaded_by(code, f"training.init_from={tmp_path}", cwd=tmp_path) == (2, [])


def test_what_does_not_fit_is_said_on_the_command_line_and_nothing_was_started(source, vibench, tmp_path):
    done = vibench(
        "train", *NAMED, "task=classification", *split(0), f"training.init_from={source}", "d_model=8",
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "embedding.project.weight is (16, 64) there, (8, 64) here" in done.stderr
    assert "Traceback" not in done.stderr
    assert (status(tmp_path / "run")["state"], status(tmp_path / "run")["kind"]) == ("failed", "CONFIG")
    assert not (tmp_path / "run" / "checkpoints").exists()


# ---- what the test has seen of it


@pytest.fixture(scope="module")
def drawn(run):
    """A run on a split that was drawn."""
    return run(*DRAWN, "task=classification", "data.split.seed=0")


def test_a_source_that_has_seen_the_test_is_refused_before_training(drawn, resolved, tmp_path):
    config = resolved(*DRAWN, "task=classification", "data.split.seed=1", f"training.init_from={drawn}")
    with pytest.raises(DataError, match=r"training\.init_from and test share \d+ entities \(motor-") as refused:
        run_experiment(config, tmp_path)
    assert not refused.value.started
    assert not (tmp_path / "checkpoints").exists()


def test_a_source_that_has_seen_the_test_is_named_in_the_result_where_that_is_allowed(drawn, run, capsys):
    folder = run(
        *DRAWN, "task=classification", "data.split.seed=1", "data.allow_leaky=true", f"training.init_from={drawn}"
    )  # fmt: skip
    said, names = status(folder)["split"], json.loads((folder / "split.json").read_text())
    known = {name for part in ("train", "val") for name in names_of(drawn, part)}
    common = sorted(known & set(names_of(folder, "test")))
    assert (said["clean"], said["waived"]) == (False, True)
    (shared,) = said["shared"]
    assert (shared["splits"], shared["entities"]) == (["training.init_from", "test"], len(common))
    assert names["shared"][0]["entities"] == common
    assert f"training.init_from and test share {len(common)} entities" in capsys.readouterr().out


def names_of(folder, part):
    return json.loads((folder / "split.json").read_text())["splits"][part]["entities"]


def test_a_source_of_the_same_split_is_clean(drawn, run):
    folder = run(*DRAWN, "task=classification", "data.split.seed=0", f"training.init_from={drawn}")
    assert status(folder)["split"] | {"splits": None} == status(drawn)["split"] | {"splits": None}
    assert status(folder)["split"]["clean"]


def test_what_chose_the_best_checkpoint_has_been_seen(two, resolved, tmp_path):
    config = resolved(*NAMED, "task=classification", *split(0, test=1), f"training.init_from={two[0]}")
    with pytest.raises(DataError, match=r"test share 2 entities \(motor-healthy-1, motor-inner-1\)"):
        run_experiment(config, tmp_path)


def test_a_machine_of_another_seed_is_another_machine(drawn, run):
    """The same names would make a leak of it, or hide one."""
    folder = run(
        *DRAWN, "task=classification", "data.split.seed=1", "data.machine_seed=1", f"training.init_from={drawn}"
    )  # fmt: skip
    assert status(folder)["split"]["clean"]
    assert {*names_of(folder, "test")}.isdisjoint({*names_of(drawn, "train"), *names_of(drawn, "val")})


@pytest.fixture(scope="module")
def third(run, source):
    """A run that starts from one that starts from one; each trained on other machines."""
    second = run(*NAMED, "task=classification", *split(1), f"training.init_from={source}")
    rig = split(0, machine="rig")
    return run(*NAMED, "task=classification", *rig, f"training.init_from={second}")


def test_what_was_seen_is_inherited_over_two_transfers(third):
    seen = read_checkpoint(third / "checkpoints" / "last.ckpt")["vibench"]["seen"]
    trained = ("motor-healthy-0", "motor-inner-0", "motor-healthy-1", "motor-inner-1", "rig-healthy-0", "rig-inner-0")
    assert seen == sorted(trained)


def test_a_test_that_the_source_of_a_source_has_seen_is_refused(third, resolved, tmp_path):
    config = resolved(*NAMED, "task=classification", *split(2, test=0), f"training.init_from={third}")
    with pytest.raises(DataError, match=r"test share 2 entities \(motor-healthy-0, motor-inner-0\)"):
        run_experiment(config, tmp_path)


@pytest.mark.parametrize("lost", ["vibench", "seen"])
def test_weights_that_do_not_say_what_they_have_seen_are_not_called_clean(source, resolved, tmp_path, lost):
    """As those of another program, or of a version that did not note it: here they have seen the very test."""
    content = torch.load(source / "checkpoints" / "last.ckpt", weights_only=True)
    del (content if lost == "vibench" else content["vibench"])[lost]
    torch.save(content, tmp_path / "mute.ckpt")
    config = resolved(*NAMED, "task=classification", *split(1, test=0), f"training.init_from={tmp_path / 'mute.ckpt'}")
    with pytest.raises(VibenchError, match=r"training\.init_from"):
        run_experiment(config, tmp_path / "run")


def test_what_is_not_known_stays_unknown_over_a_waived_transfer(source, resolved, tmp_path):
    """Else one run that was waived as leaky would wash its descendants clean."""
    content = torch.load(source / "checkpoints" / "last.ckpt", weights_only=True)
    del content["vibench"]
    torch.save(content, tmp_path / "mute.ckpt")
    here = (*NAMED, "task=classification", *split(1, test=0))
    waived = run_experiment(
        resolved(*here, f"training.init_from={tmp_path / 'mute.ckpt'}", "data.allow_leaky=true"), tmp_path / "waived"
    )
    assert waived["split"]["clean"] is False
    with pytest.raises(DataError, match="does not say which bearings and runs its weights have seen"):
        run_experiment(resolved(*here, f"training.init_from={tmp_path / 'waived'}"), tmp_path / "child")


# ---- a whole run


def test_the_status_says_what_the_run_started_from(source, run):
    folder = run(
        *NAMED, "task=classification", *split(1), f"training.init_from={source}", "training.init_parts=[backbone,tasks]"
    )  # fmt: skip
    assert status(folder)["start"] == {
        "checkpoint": str(source / "checkpoints" / "last.ckpt"),
        "parts": ["backbone", "tasks.classification"],
    }
    assert status(source)["start"] is None


def test_a_run_trains_on_from_the_weights_that_it_took(source, run):
    """At this rate nothing moves: its last checkpoint is its first."""
    options = (*NAMED, "task=classification", *split(1), "training.lr=1e-30", "training.optimizer=sgd")
    assert same(weights(run(*options, f"training.init_from={source}")), weights(source), *BODY)
    assert not same(weights(run(*options)), weights(source), *BODY)


def test_a_backbone_that_learned_without_labels_serves_a_classifier_of_few(run):
    first = run(*DRAWN, "task=masked_reconstruction")
    second = run(
        *DRAWN, "task=classification", "data.labels_per_class=4", f"training.init_from={first}", FREEZE
    )  # fmt: skip
    assert same(weights(second), weights(first), *BODY)
    assert status(second)["split"]["clean"]
    assert status(second)["labels_seen"] == {"classification": 16}
    assert status(second)["start"]["parts"] == ["embedding", "backbone"]
    assert set(status(second)["results"]) == {"classification"}
