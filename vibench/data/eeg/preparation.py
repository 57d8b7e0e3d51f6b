"""How the signals of a store were made of the raw ones: what a store says, and what an experiment asks for."""

from typing import Any

from vibench.config.data import PreprocessingConfig
from vibench.config.plain import plain
from vibench.data.store import Store
from vibench.errors import DataError


def preparation_of(config: PreprocessingConfig) -> dict[str, Any]:
    """What a store says of how it was made, in plain types."""
    return plain(config)


def check_preparation(store: Store, config: PreprocessingConfig) -> None:
    """Refuse a store that was not made as the experiment says.

    Raises:
        DataError: names every setting that differs.
    """
    if not store.preparation:
        raise DataError(f"{store.path} holds no EEG; make a store with `vibench-data prepare eeg raw=DIR`")
    asked = preparation_of(config)
    wrong = [key for key in asked if asked[key] != store.preparation.get(key)]
    if wrong:
        told = "; ".join(f"data.preprocessing.{key}={asked[key]}, there {store.preparation.get(key)}" for key in wrong)
        raise DataError(
            f"{store.path} was prepared otherwise: {told}; use the values that are there, or prepare the files anew"
        )
