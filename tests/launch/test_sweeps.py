"""``vibench-train -m`` on this machine, as its user sees it."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.conftest import CONF
from tests.launch.conftest import QUICK
from vibench.config.frozen import read
from vibench.launch.sweep import FILE, Sweep

SAME = "hydra.launcher.on_duplicate=skip"
SUBDIR = "hydra.sweep.subdir=job${hydra.job.num}-${d_model}-${backbone.moving_average}"


@pytest.fixture(scope="module")
def swept(command, cache, tmp_path_factory):
    """Three jobs, two at once, the third like the first; of a file of one's own, into directories that are named."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "own" / "backbone").mkdir(parents=True)
    text = (CONF / "backbone" / "dlinear.yaml").read_text()
    (folder / "own" / "backbone" / "mine.yaml").write_text(re.sub(r"moving_average: \d+", "moving_average: 5", text))
    mine = [text for text in QUICK if not text.startswith("backbone")]
    line = ("-m", "--config-dir=own", *mine, "backbone=mine", "embedding=patch,hse,patch", SUBDIR, SAME)
    line = (*line, "hydra.launcher.jobs=2", "hydra.sweep.dir=sweep")
    (folder / "cache").mkdir()
    for store in cache.glob("demo-*.h5"):
        (folder / "cache" / store.name).symlink_to(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIBENCH_CACHE", str(folder / "cache"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        done = command("train", *line, cwd=folder)
        assert done.returncode == 0, done.stderr
        yield folder, line, done, command


def status_of(run_dir):
    return json.loads((run_dir / "status.json").read_text())


def test_every_combination_is_a_proven_run_in_a_directory_of_its_own(swept):
    folder, _, _, command = swept
    runs = sorted(path.parent for path in (folder / "sweep").glob("*/status.json"))
    assert [run.name for run in runs] == ["job0-16-5", "job1-16-5"]
    assert [status_of(run)["state"] for run in runs] == ["completed", "completed"]
    assert [read(run)["embedding"]["_target_"].rpartition(".")[2] for run in runs] == ["Patch", "HSE"]
    assert [read(run)["backbone"]["moving_average"] for run in runs] == [5, 5]  # of the user's own file
    shown = command("status", "sweep", cwd=folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "3 completed" in shown.stdout


def test_as_many_run_at_once_as_were_asked_for(swept):
    folder = swept[0] / "sweep"
    one, other = (status_of(folder / name) for name in ("job0-16-5", "job1-16-5"))
    assert max(one["started"], other["started"]) < min(one["finished"], other["finished"])
    assert one["pid"] != other["pid"]


def test_first_the_plans_are_shown_then_what_happens_then_what_came_of_it(swept):
    _, _, done, _ = swept
    changes = re.findall(r"^\d\d:\d\d:\d\d (.*)$", done.stdout, re.M)
    plans, results = re.split(r"^\d\d:\d\d:\d\d .*$", done.stdout, flags=re.M)[:: len(changes)]
    assert re.search(r"│ 0 +│ embedding=patch +│ cpu +│ good +│ micro-batch 32 x 1, fp32, host [\d.]+ GiB", plans)
    assert re.search(r"│ 2 +│ embedding=patch +│ cpu +│ same +│ the result of .*/sweep/job0-16-5", plans)
    assert any(re.fullmatch(r"1 embedding=hse: running \(job \d+\)", change) for change in changes)
    assert "1 embedding=hse: completed" in changes
    assert len(re.findall(r"│ embedding=\w+ +│ completed +│ +[\d.]+ \([+-][\d.]+\) +│", results)) == 3
    assert results.rstrip().endswith("3 completed")
    assert "Warning" not in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_run_prints_is_in_its_own_file(swept):
    folder, _, done, _ = swept
    for name in ("job0-16-5", "job1-16-5"):
        text = (folder / "sweep" / name / "output.log").read_text()
        for words in ("audit    clean", "device   cpu", "entities"):
            assert words in text
            assert words not in done.stdout
        assert (folder / "sweep" / name / "vibench-train.log").is_file()


def test_the_sweep_explains_itself(swept):
    folder, line, _, _ = swept
    found = Sweep.read(folder / "sweep")
    assert [(job.number, job.name, job.folder) for job in found.jobs] == [
        (0, "embedding=patch", "job0-16-5"),
        (1, "embedding=hse", "job1-16-5"),
        (2, "embedding=patch", "job2-16-5"),
    ]
    assert [job.same_as for job in found.jobs] == [None, None, str(folder / "sweep" / "job0-16-5")]
    assert len({job.config_hash for job in found.jobs}) == 2
    assert (found.launcher["name"], found.launcher["jobs"]) == ("local", 2)
    assert os.path.samefile(folder / found.config_dir, folder / "own")
    assert set(found.jobs[1].overrides) == {
        text for text in line if "=" in text and not text.startswith(("--", "hydra"))
    } - {"embedding=patch,hse,patch"} | {"embedding=hse"}


def test_the_results_are_drawn(swept):
    pytest.importorskip("matplotlib", reason="the extra vibench[pictures] is not installed")
    text = (swept[0] / "sweep" / "sweep.svg").read_text()
    assert text.startswith("<?xml")
    for words in ("embedding=hse", "macro_f1 (more is better)", "naive"):
        assert words in text


def test_the_same_line_again_begins_nothing_again(swept):
    folder, line, _, command = swept
    files = [*(folder / "sweep").glob("*/status.json"), *(folder / "sweep").glob("*/output.log")]
    before = {path: path.read_bytes() for path in files}
    again = command("train", *line, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "3 completed" in again.stdout
    assert {path: path.read_bytes() for path in files} == before


def test_another_line_in_the_same_directory_is_refused_and_changes_nothing(swept):
    folder, line, _, command = swept
    before = (folder / "sweep" / FILE).read_bytes()
    other = command("train", *(text.replace("patch,hse,patch", "hse,patch,patch") for text in line), cwd=folder)
    assert (other.returncode, other.stdout) == (2, "")
    said = "hydra.sweep.dir=sweep holds another sweep: its job 0 is embedding=patch; name another directory"
    assert other.stderr == f"vibench-train: {said}\n"
    assert (folder / "sweep" / FILE).read_bytes() == before


# what is refused, in a line


@pytest.fixture
def refused(command, cache, tmp_path):
    """The lines of a sweep that is refused before anything is begun."""

    def call(*arguments):
        done = command("train", "-m", *QUICK, "seed=0,1", "hydra.sweep.dir=sweep", *arguments, cwd=tmp_path)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 2, done.stderr
        assert list(tmp_path.glob("sweep/*/")) == []
        return done.stderr.splitlines()

    return call


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("hydra.launcher.jobs=0", r"hydra\.launcher\.jobs=0 is out of range: at once; .*; use a value at least 1"),
        (
            "hydra.launcher.on_duplicate=maybe",
            r"hydra\.launcher\.on_duplicate: .* expected one of \[skip, error, allow\]",
        ),
        ("hydra/launcher=slurm hydra.launcher.jobs=3", r"hydra\.launcher\.jobs does not exist"),
        ("hydra/launcher=slrum", r"hydra/launcher=slrum does not exist; .*local, slurm"),
        ("hydra.sweeper.max_batch_size=0", r"hydra\.sweeper\.max_batch_size=0 is out of range"),
        ("--detach", r"--detach leaves a sweep to SLURM; use it with -m and hydra/launcher=slurm"),
        ("+hydra.launcher.foo=1", r"hydra\.launcher\.foo"),
        ("hydra.launcher.name=mine", r"hydra\.launcher\.name"),
    ],
)
def test_a_wrong_key_of_the_launcher_is_one_line(refused, keys, words):
    (line,) = refused(*keys.split())
    assert re.match(f"vibench-train: {words}", line), line


def test_what_is_wrong_with_any_job_is_told_before_anything_is_made(refused, tmp_path):
    title, *lines = refused("d_model=16,0", "backbone.moving_average=3,4", "training.lr=-1")
    assert title == "vibench-train: 3 errors, nothing was started"
    assert [line.split(": ")[1].split("=")[0] for line in lines] == [
        "training.lr",
        "backbone.moving_average",
        "d_model",
    ]
    assert not (tmp_path / "sweep").exists()


def test_two_jobs_in_one_directory_are_refused(refused):
    (line,) = refused("hydra.sweep.subdir=model${d_model}")
    assert re.fullmatch(
        r"vibench-train: hydra\.sweep\.subdir gives job 1 the directory .*/sweep/model16, that of job 0, too; "
        r"use \${hydra\.job\.num}",
        line,
    ), line


def test_a_primary_config_of_ones_own_is_the_one_that_every_job_is_composed_from(command, cache, tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults:\n  - train\n  - _self_\nd_model: 0\n")
    own = [text for text in QUICK if not text.startswith("d_model")]
    line = ("--config-dir=.", "--config-name=mine", "-m", *own, "seed=0,1", "hydra.sweep.dir=sweep")
    done = command("train", *line, cwd=tmp_path)
    assert done.returncode == 2
    assert re.findall(r"^(\d): d_model=0 is out of range", done.stdout, re.M) == ["0", "1"]
    assert list(tmp_path.glob("sweep/*/")) == []
    again = command("status", "sweep", "--rerun", "refused", cwd=tmp_path)
    assert again.returncode == 2
    assert "--config-name mine; type the line of the sweep again, with hydra.sweep.dir=sweep" in again.stderr


def test_a_plan_that_is_refused_ends_with_2_and_the_table_says_why(command, cache, tmp_path):
    line = ("-m", *QUICK, "seed=0,1", "hardware.ram_gib=0.1,null", "hydra.sweep.dir=sweep")
    done = command("train", *line, cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(
        r"vibench-train: 2 of 4 jobs are refused, nothing was started; mend them, then vibench-status sweep --rerun "
        r"refused,planned, or leave them out by hydra\.launcher\.skip_refused=true\n",
        done.stderr,
    )
    assert re.search(r"^0: the run takes [\d.]+ GiB of the host's memory, hardware\.ram_gib=0\.1: ", done.stdout, re.M)
    assert list(tmp_path.glob("sweep/*/")) == []
    shown = command("status", "sweep", cwd=tmp_path)
    assert shown.returncode == 1
    assert "2 planned, 2 refused" in shown.stdout


def test_a_sweep_whose_folder_cannot_be_made_is_refused(command, cache, tmp_path):
    Path(tmp_path / "taken").touch()
    done = command("train", "-m", *QUICK, "seed=0,1", "hydra.sweep.dir=taken/sweep", cwd=tmp_path)
    assert done.returncode == 2
    assert "directory cannot be made: " in done.stderr
    assert "Traceback" not in done.stderr
