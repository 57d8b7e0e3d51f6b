"""The one way through the package: nothing imports upward, and what must be quick imports no torch at its top.

Read from the source, so that an import inside a function is seen as well.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vibench"
ORDER = (
    ("errors", "signals", "cgroups"),
    ("config",),
    ("data",),
    ("layers",),
    ("embeddings", "backbones"),  # one rank with layers, which they may use
    ("tasks",),
    ("model",),
    ("step",),
    ("memory",),
    ("training",),
    ("report",),
    ("proving", "prediction"),
    ("experiment",),
    ("rank",),
    ("processes",),
    ("run",),
    ("launch",),
    ("cli",),
)
RANK = {part: rank for rank, parts in enumerate(ORDER) for part in parts}
ONLY = {"config": {"config", "errors"}, "report": {"report", "errors", "signals"}}  # stricter than their rank
QUICK = {"errors", "signals", "cgroups", "config", "report", "rank", "processes", "run", "launch", "cli"}
HEAVY = {"torch", "lightning", "torchmetrics", "numpy", "h5py", "scipy"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(source: str, module: str, *, top: bool = False) -> Iterator[str]:
    """Full names of what a module imports, e.g. ``vibench.config.task.TaskConfig``; ``top``: not inside functions."""
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if top and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        waiting.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def part_of(name: str) -> str:
    """The part of vibench that a full name lies in; empty for other packages and for vibench itself."""
    package, _, rest = name.partition(".")
    return rest.split(".")[0] if package == "vibench" and rest != "__init__" else ""


def upward(source: str, module: str) -> list[str]:
    """What a module imports against the one way."""
    own = part_of(module)

    def allowed(part: str) -> bool:
        return part == own or (part in ONLY[own] if own in ONLY else RANK[part] < RANK[own])

    return [name for name in imports(source, module) if part_of(name) and not allowed(part_of(name))]


def slow(source: str, module: str) -> list[str]:
    """What a quick module imports at its top that is heavy, or that imports something heavy."""
    return [
        name
        for name in imports(source, module, top=True)
        if name.split(".")[0] in HEAVY or (part_of(name) and part_of(name) not in QUICK)
    ]


def test_every_part_has_its_place():
    """A new folder or file of vibench has to be put into ORDER."""
    assert {part_of(module_of(path)) for path in SOURCES} - {""} <= set(RANK)
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_imports_upward(path):
    assert upward(path.read_text(), module_of(path)) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if part_of(module_of(path)) in QUICK | {""}], ids=module_of)
def test_what_must_be_quick_imports_nothing_heavy_at_its_top(path):
    assert slow(path.read_text(), module_of(path)) == []


def test_the_shim_of_the_launcher_imports_nothing_heavy_at_its_top():
    for path in (ROOT / "hydra_plugins").rglob("*.py"):
        assert slow(path.read_text(), module_of(path)) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vibench.data.store", "import vibench.tasks.task"),
        ("vibench.data.store", "from vibench.tasks.task import Task"),
        ("vibench.data.store", "from vibench import model"),
        ("vibench.data.store", "from ..tasks import task"),
        ("vibench.data.store", "def late():\n    from vibench.experiment import train_and_prove"),
        ("vibench.layers.encoder", "from vibench.backbones.patchtst import PatchTST"),
        ("vibench.backbones.patchtst", "from vibench.embeddings.patch import Patch"),
        ("vibench.memory.plan", "from vibench.training.fit import fit"),
        ("vibench.report.status", "from vibench.config.task import TaskConfig"),
        ("vibench.config.task", "from vibench.data.store import Store"),
        ("vibench.errors", "from vibench.config.task import TaskConfig"),
        ("vibench.model", "import vibench.cli.train"),
    ],
)
def test_an_upward_import_is_seen_however_it_is_written(module, source):
    assert upward(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vibench.backbones.patchtst", "from vibench.layers.encoder import EncoderBlock"),
        ("vibench.embeddings.patch", "from vibench.layers.encoder import EncoderBlock"),
        ("vibench.report.table", "from vibench.report.status import read_status"),
        ("vibench.data.store", "from . import batch\nfrom vibench.errors import DataError\nimport numpy"),
        ("vibench.cli.train", "from vibench.experiment import train_and_prove"),
    ],
)
def test_an_import_along_the_one_way_is_allowed(module, source):
    assert upward(source, module) == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch.nn as nn",
        "from torchmetrics import Metric",
        "try:\n    import h5py\nexcept ImportError:\n    pass",
        "class Late:\n    import numpy",
        "from vibench.experiment import train_and_prove",  # brings torch with it
    ],
)
def test_a_heavy_import_at_the_top_is_seen(source):
    assert slow(source, "vibench.cli.train")


def test_a_heavy_import_inside_a_function_is_allowed():
    assert slow("def late():\n    import torch", "vibench.cli.train") == []


def listed_packages() -> set[str]:
    """``[tool.setuptools] packages``, by pattern, since Python 3.10 has no tomllib."""
    found = re.search(r"^packages = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    return set(re.findall(r'"([\w.]+)"', found[1]))


def test_every_package_is_installed():
    packages = {module_of(path).removesuffix(".__init__") for path in PACKAGE.rglob("__init__.py")}
    listed = {name for name in listed_packages() if name.split(".")[0] == "vibench"}
    folders = {path.parent.relative_to(ROOT).parts for path in (ROOT / "conf").rglob("*.yaml")}
    folders |= {parts[:depth] for parts in folders for depth in range(1, len(parts))}
    assert listed == packages | {".".join(("vibench", *parts)) for parts in folders}


def test_every_folder_of_modules_is_a_package():
    """One without an ``__init__.py`` works in the checkout and is missing from the wheel."""
    assert {path.parent for path in SOURCES} == {path.parent for path in PACKAGE.rglob("__init__.py")}
