"""What SLURM's accounting says of jobs, their attempts and their steps."""

import pytest

from tests.launch import accounts
from vibench.launch.slurm import add_job, first_line, jobs_of, keep, parts, read_accounting


def read(text, *numbers):
    return read_accounting(text, set(numbers or ("12",)))


def test_a_job_without_a_line_is_not_known():
    assert read("") == {}
    assert read(accounts.ENDED["COMPLETED"], "13") == {}
    assert read(accounts.ENDED["COMPLETED"], "1") == {}


@pytest.mark.parametrize("how", accounts.ENDED)
def test_a_job_that_ended_is_in_the_state_that_its_name_says(how):
    seen = read(accounts.ENDED[how])["12"]
    assert (seen.phase, seen.state, seen.number, seen.restarts) == ("ended", how.split(" ")[0], "12", 0)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("COMPLETED", ""),
        ("FAILED", "exit status 1:0"),
        ("OUT_OF_MEMORY of a step", "step 0"),
        ("OUT_OF_MEMORY of the job", "step batch"),
        ("CANCELLED", "by 0"),
        ("NODE_FAIL", ""),
    ],
)
def test_why_is_told_by_the_step_the_exit_status_or_who_did_it(how, told):
    assert read(accounts.ENDED[how])["12"].told == told


def test_a_step_that_was_out_of_memory_and_was_overcome_is_no_failure():
    text = accounts.ENDED["COMPLETED"].replace("12.0|COMPLETED|0:0", "12.0|OUT_OF_MEMORY|0:125")
    assert read(text)["12"].state == "COMPLETED"


def test_a_job_that_runs_is_running():
    seen = read(accounts.RUNS)["12"]
    assert (seen.phase, seen.state, seen.where) == ("running", "RUNNING", "v100n1")


@pytest.mark.parametrize(
    ("before", "state"), [("PREEMPTED", "COMPLETED"), ("NODE_FAIL", "COMPLETED"), ("TIMEOUT", "TIMEOUT")]
)
def test_of_several_attempts_the_last_one_counts_and_all_are_counted(before, state):
    seen = read(accounts.AGAIN[before])["12"]
    assert (seen.phase, seen.state, seen.where, seen.restarts) == ("ended", state, "v100n1", 1)


def test_a_job_that_was_begun_again_runs():
    seen = read(accounts.GOES_ON)["12"]
    assert (seen.phase, seen.state, seen.restarts) == ("running", "RUNNING", 1)


def test_memory_that_an_attempt_before_had_not_enough_of_is_not_the_last_ones():
    text = accounts.ENDED["OUT_OF_MEMORY of a step"] + accounts.ENDED["FAILED"]
    assert read(text)["12"].state == "FAILED"
    assert read(accounts.ENDED["FAILED"] + accounts.ENDED["OUT_OF_MEMORY of a step"])["12"].state == "OUT_OF_MEMORY"


def test_jobs_of_an_array_are_told_apart_by_their_number_in_it():
    found = read(accounts.STARVED_ARRAY, "22_0", "22_3", "22_1")
    assert {number: seen.state for number, seen in found.items()} == {"22_0": "OUT_OF_MEMORY", "22_3": "COMPLETED"}


def test_attempts_of_an_array_are_those_of_each_of_its_jobs():
    """Their lines stand where the attempts ended, not side by side."""
    found = read(accounts.REQUEUED_ARRAY, "21_0", "21_1", "21_2")
    assert {number: (seen.state, seen.restarts) for number, seen in found.items()} == {
        "21_0": ("CANCELLED", 0),
        "21_1": ("CANCELLED", 1),
        "21_2": ("CANCELLED", 0),
    }


def test_a_job_that_waits_in_an_array_is_no_other_one():
    assert set(read(accounts.WAITING_ARRAY, "18_0", "18_2")) == {"18_0"}


def test_jobs_of_an_array_that_were_cancelled_while_they_waited_share_a_line():
    found = read(accounts.CANCELLED_ARRAY, *(f"7_{n}" for n in (0, 1, 2, 5, 6)))
    assert {number: seen.state for number, seen in found.items()} == dict.fromkeys(("7_0", "7_2", "7_5"), "CANCELLED")
    assert found["7_5"].number == "7_5"


# what is written down of a run's jobs


def test_jobs_of_a_run_are_written_down_in_their_order_and_each_once(tmp_path):
    assert jobs_of(tmp_path) == []
    add_job(tmp_path, {"id": "12", "mem_mb": 1024, "submitted": 1.0, "why": ""})
    add_job(tmp_path, {"id": "13", "mem_mb": 1536, "submitted": 2.0, "why": "more memory"})
    add_job(tmp_path, {"id": "12", "mem_mb": 1024, "why": ""})  # by the job itself
    assert [(job["id"], job["submitted"]) for job in jobs_of(tmp_path)] == [("12", 1.0), ("13", 2.0)]


def test_what_the_queue_will_forget_is_kept_as_it_was_last_seen(tmp_path):
    for number in ("11", "12"):
        add_job(tmp_path, {"id": number})
    for how in ("FAILED", "OUT_OF_MEMORY of a step"):  # accounting is behind the queue
        keep(tmp_path, read(accounts.ENDED[how])["12"])
    assert [job.get("ended", {}).get("state") for job in jobs_of(tmp_path)] == [None, "OUT_OF_MEMORY"]


@pytest.mark.parametrize("text", ["", "{", "{}", '{"jobs": '])
def test_a_file_of_jobs_that_cannot_be_read_holds_none(tmp_path, text):
    (tmp_path / "slurm.json").write_text(text)
    assert jobs_of(tmp_path) == []


# words and numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [("", ""), ("\n  \n", ""), ("\nsbatch: error: no\nmore", "sbatch: error: no"), (OSError("no"), "no")],
)
def test_the_first_line_is_the_first_that_says_something(text, said):
    assert first_line(text) == said


@pytest.mark.parametrize("count", [0, 1, 200, 201, 1000])
def test_no_command_names_more_jobs_than_it_takes(count):
    items = [str(number) for number in range(count)]
    found = list(parts(items))
    assert [item for part in found for item in part] == items
    assert all(0 < len(part) <= 200 for part in found)
