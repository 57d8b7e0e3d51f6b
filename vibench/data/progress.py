"""A progress bar where somebody sees it."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def shown(items: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The items one by one, with a bar on a terminal; a bar that nobody sees has a thread all the same."""
    console = Console(stderr=True)
    return track(items, what, total=total, console=console, transient=True) if console.is_terminal else items
