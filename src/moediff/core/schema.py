"""JSON schemas and reading of records that are frozen dataclasses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from moediff.core.errors import DataError

T = TypeVar("T")

NOT_FINITE = ("inf", "-inf", "nan")  # JSON has no such numbers: records hold words instead


def json_schema_text(kind: type, *, finite: bool = False) -> str:
    """The JSON schema of a record as the package ships it; unless `finite`, numbers may be `NOT_FINITE`."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(kind).json_schema(mode="serialization")
    schema = schema if finite else _with_words(schema)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def _with_words(node: Any) -> Any:
    """A schema whose numbers may be infinite or missing, as words."""
    if isinstance(node, list):
        return [_with_words(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: _with_words(value) for key, value in node.items()}
    if result.get("type") == "number":
        del result["type"]
        result["anyOf"] = [{"type": "number"}, {"enum": list(NOT_FINITE)}]
    return result


def record_from(kind: type[T], values: Mapping[str, Any]) -> T:
    """Plain values of a JSON file as a record.

    Raises:
        DataError: a key is missing or unknown, or a value has the wrong type; the message names the first.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or kind.__name__
        raise DataError(f"{where}: {first['msg']}; expected a record of this or an earlier version") from error
