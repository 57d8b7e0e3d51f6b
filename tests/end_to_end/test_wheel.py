"""The wheel carries everything: installed in a fresh environment it runs from any folder."""

import os
import subprocess
import sys
import sysconfig

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A new environment with only the wheel in it; the dependencies are lent by this one's site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "-C", ROOT, "checkout-index", "--all", f"--prefix={source}/"], check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    (wheel,) = folder.glob("vibench-*.whl")
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    with open(os.path.join(own, "lent.pth"), "w") as file:  # after its own, and without the editable install's hook
        file.write(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin"


def test_the_installed_command_trains_outside_the_checkout(fresh, cache, tmp_path):
    options = ("training=smoke", "hardware=cpu", "data.lives=6", "data.conditions=1", "d_model=16")
    done = subprocess.run(
        [fresh / "vibench-train", *options], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "phm08_mean" in done.stdout
    assert list(tmp_path.glob("multirun_outputs/*/*/status.json"))


def test_its_configs_come_from_the_wheel(fresh, tmp_path):
    code = "import vibench.conf, vibench.config.describe as d; print(vibench.conf.__file__, d.options()['experiment'])"
    done = subprocess.run([fresh / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(ROOT) not in done.stdout
    assert "foundation/patchtst_debug" in done.stdout


@pytest.mark.parametrize("launcher", ["local", "slurm"])
def test_its_launchers_come_with_it(fresh, tmp_path, launcher):
    """They are in a package of their own, which Hydra looks for."""
    key = {"local": "jobs", "slurm": "at_once"}[launcher]
    line = ("-m", "seed=0,1", f"hydra/launcher={launcher}", f"hydra.launcher.{key}=0")
    done = subprocess.run([fresh / "vibench-train", *line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"vibench-train: hydra.launcher.{key}=0 is out of range: ")
    assert list(tmp_path.glob("multirun_outputs/*/*/*/")) == []
