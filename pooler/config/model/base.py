"""What all sections are, and what a setting is that has its default from another section."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema


class Section(BaseModel):
    """Common to all: nothing unknown, nothing changed later, no input in error texts."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


def inherited(section: type[Section], name: str) -> Any:
    """A setting whose default, None, is that of another section, and so is its description."""
    base = section.model_fields[name]
    of = re.sub(r"\B(?=[A-Z])", "_", section.__name__).lower()
    text = f"{base.description} Default: {of}.{name}."
    return Field(default=None, description=text, examples=[base.default])


def one_of(*words: str) -> WithJsonSchema:
    """The JSON Schema of one of these words; what is wrong with others is said elsewhere."""
    return WithJsonSchema({"enum": [*words]})
