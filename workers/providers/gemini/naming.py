"""snake_case as clients and configurations write it -> camelCase as the REST API does."""

import re
from typing import Any

_UNDERSCORE = re.compile(r"_([a-z0-9])")


def camel(name: str) -> str:
    return _UNDERSCORE.sub(lambda found: found[1].upper(), name)


def camel_keys(value: Any) -> Any:
    """`value` with the keys of all its objects in camelCase; for structures without names of the user's own."""
    if isinstance(value, dict):
        return {camel(key): camel_keys(each) for key, each in value.items()}
    if isinstance(value, list):
        return [camel_keys(each) for each in value]
    return value
