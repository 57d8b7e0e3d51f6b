"""A wrong configuration is reported without waiting for torch: asserted on ``sys.modules``, never on a clock.

Each check runs in a process of its own, since the modules of this one are already loaded.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "torchmetrics", "numpy", "h5py", "scipy")
REPORT = f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
COMMANDS = sorted(path.stem for path in (ROOT / "vibench" / "cli").glob("*.py") if path.stem != "__init__")
LIGHT = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("config", "report")
    for path in (ROOT / "vibench" / folder).glob("*.py")
)


def loaded_by(statements: str, *arguments: str, cwd: Path = ROOT) -> tuple[int, list[str]]:
    """Exit status of a process, and which of the heavy packages it had loaded at its end."""
    code = f"import atexit, json, sys\natexit.register(lambda: {REPORT})\n{statements}"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=cwd
    )
    return result.returncode, json.loads(result.stdout.splitlines()[-1])


def test_what_is_heavy_is_seen_when_it_is_loaded():
    """Else an empty answer below would prove nothing."""
    assert loaded_by("import vibench.data.store") == (0, ["numpy", "h5py"])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_loads_nothing_heavy_when_imported(command):
    assert loaded_by(f"import vibench.cli.{command}") == (0, [])


def test_config_report_and_errors_load_nothing_heavy_when_imported():
    assert len(LIGHT) > 10
    assert loaded_by(f"import vibench.errors, {', '.join(LIGHT)}") == (0, [])


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("training.epochs=0", 2),
        ("backbone=patchts d_model=65 data.widow=3", 2),
        ("data=cwru data.store=/nowhere.h5", 2),
        ("--config-dir=. training.epochs=0", 2),  # a flag: Hydra composes, not our own check
        ("--help", 0),
        ("--help backbone=dlinear", 0),
        ("--cfg job", 0),
    ],
)
def test_training_that_is_refused_or_only_shown_loads_nothing_heavy(tmp_path, line, status):
    assert loaded_by("from vibench.cli.train import main; main()", *line.split(), cwd=tmp_path) == (status, [])


@pytest.mark.parametrize(
    ("command", "line", "status"),
    [("status", "--help", 0), ("status", ".", 2), ("data", "--help", 0), ("data", "prepare nothing", 2)],
)
def test_the_other_commands_load_nothing_heavy_to_say_no(tmp_path, command, line, status):
    assert loaded_by(f"from vibench.cli.{command} import main; main()", *line.split(), cwd=tmp_path) == (status, [])
