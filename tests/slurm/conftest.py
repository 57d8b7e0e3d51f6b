"""One SLURM cluster for the whole session, and sweeps on it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.slurm import machine
from tests.slurm.cluster import Cluster
from tests.slurm.commands import empty_queue
from tests.slurm.sweeps import DROPS, LONG, PATIENCE_S, Watched, command

AT_ONCE = 4  # scenarios; they mostly wait, and each job takes a core for some seconds


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster; while it stands, the commands of SLURM speak to it, here and in processes of the tests."""
    if reason := machine.missing():
        pytest.skip(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.up()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SALLOC_"))]:
            patch.delenv(name)  # of a real cluster that we may be on
        patch.setenv("SLURM_CONF", str(cluster.conf))
        patch.setenv("PATH", f"{os.environ['PATH']}:{machine.PATH}")
        yield cluster
    cluster.down()


@pytest.fixture(autouse=True, scope="module")
def _empty_queue(cluster: Cluster) -> Iterator[None]:
    """What the tests of a file leave on the cluster is cancelled after them."""
    yield
    empty_queue()


@pytest.fixture(scope="module")
def begin(cluster: Cluster, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Watched]]:
    """Begin a sweep in a process of its own: ``begin("seed=0,1", "--detach", folder=FOLDER)``."""
    begun: list[Watched] = []

    def call(*arguments: str, folder: Path | None = None, on_duplicate: str = "allow") -> Watched:
        folder = folder or tmp_path_factory.mktemp("sweep") / "sweep"
        ours = (f"hydra.sweep.dir={folder}", f"hydra.launcher.on_duplicate={on_duplicate}", "hydra.launcher.poll_s=1")
        begun.append(Watched(folder, command("train", "-m", "hydra/launcher=slurm", *ours, *arguments)))
        return begun[-1]

    yield call
    for one in begun:
        one.process.kill()
        one.process.wait()


@pytest.fixture(scope="module")
def _outcomes(request: pytest.FixtureRequest, begin: Callable[..., Watched]) -> Iterator[dict[object, Future]]:
    """Scenarios of the selected tests of a file, played in their order, several at once."""
    calls = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    asked = [params["outcome"] for params in calls if "outcome" in params]
    mine = [scenario for scenario in dict.fromkeys(asked) if scenario.__module__ == request.module.__name__]
    pool = ThreadPoolExecutor(AT_ONCE)
    yield {scenario: pool.submit(scenario, begin) for scenario in mine}
    pool.shutdown(wait=False, cancel_futures=True)  # those that are left end with the processes that they wait for


@pytest.fixture
def outcome(request: pytest.FixtureRequest, _outcomes: dict[object, Future]) -> object:
    """What came of the scenario that a test is about, see :func:`tests.slurm.sweeps.of`."""
    return _outcomes[request.param].result()


@pytest.fixture(scope="session")
def _left_alone(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, Path]]:
    """Begun at once, so that it is there when it is asked for."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    here = ("hardware=cpu", "hardware.device=cpu", f"hydra.run.dir={folder}")
    process = subprocess.Popen(command("train", *DROPS, LONG, *here), stdout=subprocess.DEVNULL)
    yield process, folder
    process.kill()
    process.wait()


@pytest.fixture
def undisturbed(_left_alone: tuple[subprocess.Popen, Path]) -> Path:
    """A run of ``DROPS`` and ``LONG`` that nothing happened to."""
    process, folder = _left_alone
    assert process.wait(PATIENCE_S) == 0
    return folder
