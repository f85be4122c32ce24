"""``/openapi.json``: every endpoint that there is, from the classes that validate requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ....core.http_interface import Endpoint, HttpInterface
from ....core.plugin_system.entry_points import installed_version

if TYPE_CHECKING:
    from ..answering import Request

VERSION = "3.1.0"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


async def describe(call: Request) -> Any:
    """Describe all interfaces."""
    return await call.run(description, call.server.interfaces, bool(call.server.options.api_keys))


def description(interfaces: Mapping[str, HttpInterface], with_keys: bool = False) -> dict[str, Any]:
    """An OpenAPI description.

    Args:
        with_keys: whether an API key is wanted.
    """
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for name, interface in interfaces.items():
        for endpoint in interface.endpoints:
            path = _PARAMETER.sub(r"{\1}", endpoint.path)
            paths.setdefault(path, {})[endpoint.method.lower()] = _operation(name, endpoint, schemas)
    found: dict[str, Any] = {
        "openapi": VERSION,
        "info": {"title": "polyllama", "version": installed_version("polyllama") or "unknown"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if with_keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"key": []}]
    return found


def _operation(interface: str, endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": endpoint.summary,
        "tags": [interface],
        "responses": {"200": {"description": "the answer"}, "default": {"description": "an error, as one line"}},
    }
    names = _PARAMETER.findall(endpoint.path)
    if names:
        found["parameters"] = list(_parameters(names))
    if endpoint.body is not None:
        content = {"application/json": {"schema": _schema(interface, endpoint.body, schemas)}}
        found["requestBody"] = {"required": True, "content": content}
    if endpoint.answer is not None:
        content = {"application/json": {"schema": _schema(interface, endpoint.answer, schemas)}}
        found["responses"]["200"]["content"] = content
    return found


def _parameters(names: Iterable[str]) -> Iterable[dict[str, Any]]:
    return ({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names)


def _schema(interface: str, kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to a class's schema, which is kept among the others under the interface's name."""
    made = kind.model_json_schema(ref_template=f"#/components/schemas/{interface}.{{model}}")
    schemas.update({f"{interface}.{name}": schema for name, schema in made.pop("$defs", {}).items()})
    schemas[f"{interface}.{kind.__name__}"] = made
    return {"$ref": f"#/components/schemas/{interface}.{kind.__name__}"}
