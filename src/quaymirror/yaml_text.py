"""YAML files of other tools. The only importer of PyYAML."""

from __future__ import annotations

from typing import Any

import yaml

from .errors import ConfigError

# PyYAML also raises these: for invalid dates, tags on values of another type, and deep nesting.
_SLIPS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)


def load_documents(text: str, name: str) -> list[Any]:
    """Return the documents in `text`, the content of the file called `name`, without the empty ones.

    :raises ConfigError: if it is not YAML.
    """
    try:
        return [each for each in yaml.safe_load_all(text) if each is not None]
    except (yaml.YAMLError, *_SLIPS) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(f"{place}: not YAML") from None
