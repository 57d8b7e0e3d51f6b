"""The config reference in docs/ is what the schemas say."""

from dataclasses import fields

from tests.conftest import ROOT
from vibench.config import schemas
from vibench.config.reference import page


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "config.md").read_text() == page(), "run `make docs`"


def test_every_key_of_every_schema_is_on_the_page():
    text = page()
    for group, variants in schemas.GROUPS.items():
        for name, schema in variants.items():
            for f in fields(schema):
                if f.metadata:
                    assert f"`{group}.{name}.{f.name}`" in text or f"`{group}.{f.name}`" in text
