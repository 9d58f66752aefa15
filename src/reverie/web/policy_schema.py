"""The OpenAPI description of a served policy, made from its spec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import __version__
from ..envs.actions import ActionPart, Path
from ..envs.spaces import MASK, ObsKey, Spec

#: Characters that a number of an observation may have in JSON, on average, spaces included.
CHARACTERS = 32
SPARE_CHARACTERS = 100_000
#: Numbers of an observation are at most this large: the squares of larger ones may not be numbers in a network.
LARGEST = 1e9

Schema = dict[str, Any]


def largest_body(spec: Spec) -> int:
    """Bytes of a request that may be an observation and its mask."""
    numbers = sum(int(np.prod(item.raw_shape)) for item in spec.obs.values()) + spec.action.size
    return numbers * CHARACTERS + SPARE_CHARACTERS


def nested_array(shape: Sequence[int], item: Schema) -> Schema:
    """An array of arrays of this shape; `item` itself for ()."""
    for size in reversed(shape):
        item = {"type": "array", "minItems": size, "maxItems": size, "items": item}
    return item


def nested_object(leaves: Sequence[tuple[Path, Schema]]) -> Schema:
    """Schemas at their places in a nested Dict or Tuple space; a Tuple is an array."""
    if leaves[0][0] == ():
        return leaves[0][1]
    keys = list(dict.fromkeys(path[0] for path, _ in leaves))
    inner = {key: nested_object([(path[1:], leaf) for path, leaf in leaves if path[0] == key]) for key in keys}
    if isinstance(keys[0], int):
        count = len(keys)
        return {
            "type": "array",
            "prefixItems": list(inner.values()),
            "items": False,
            "minItems": count,
            "maxItems": count,
        }
    names = [str(key) for key in keys]
    properties = {str(key): value for key, value in inner.items()}
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _row(items: Sequence[Schema]) -> Schema:
    """An array of exactly these."""
    return {
        "type": "array",
        "prefixItems": list(items),
        "items": False,
        "minItems": len(items),
        "maxItems": len(items),
    }


def observation_schema(spec: Spec) -> Schema:
    """Of the environment's own observation as JSON."""
    return nested_object([(item.path, _leaf(item)) for item in spec.obs.values() if item.kind != "mask" or item.path])


def _leaf(item: ObsKey) -> Schema:
    if item.kind == "image":
        whole: Schema = {"type": "integer", "minimum": 0, "maximum": 255}
        number: Schema = {"type": "number", "minimum": 0, "maximum": 255 / item.factor}
        return nested_array(item.raw_shape, whole if item.factor == 1 else number)
    if item.kind == "mask":
        return nested_array(item.raw_shape, {"type": "integer", "minimum": 0, "maximum": 1})
    if not item.choices:
        return nested_array(item.raw_shape, {"type": "number", "minimum": -LARGEST, "maximum": LARGEST})
    limits = [
        {"type": "integer", "minimum": start, "maximum": start + count - 1}
        for start, count in zip(item.starts, item.choices, strict=True)
    ]
    if len(item.raw_shape) == 1 and len({str(limit) for limit in limits}) > 1:
        return _row(limits)
    return nested_array(item.raw_shape, limits[0])


def action_schema(spec: Spec) -> Schema:
    """Of the environment's own action as JSON."""

    def leaf(part: ActionPart) -> Schema:
        whole = np.dtype(part.dtype).kind in "iub"
        return nested_array(part.shape, {"type": "integer" if whole else "number"})

    return nested_object([(part.path, leaf(part)) for part in spec.action.parts])


def mask_schema(spec: Spec) -> Schema:
    """Of info["action_mask"] as JSON: one entry for each choice, in the order of the action's parts."""
    entries: Schema = {"type": "integer", "minimum": 0, "maximum": 1}
    leaves = [(part.path, nested_array((part.size,), entries)) for part in spec.action.parts if part.choices]
    return nested_object(leaves)


def openapi(spec: Spec, *, title: str, tokens: bool) -> Schema:
    """The document that /openapi.json gives."""
    asked: Schema = {
        "session": {"type": "string", "description": "as the first answer gave it; none begins a session"},
        "observation": observation_schema(spec),
        "first": {"type": "boolean", "description": "is it the first observation of an episode?"},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1, "description": "of a new session's chance"},
    }
    if spec.masked and not spec.obs[MASK].path:
        asked["mask"] = mask_schema(spec)
    answer: Schema = {
        "session": {"type": "string"},
        "step": {"type": "integer", "minimum": 1},
        "action": action_schema(spec),
    }
    refused = {
        "type": "object",
        "properties": {"message": {"type": "string"}, "hint": {"type": "string"}},
        "required": ["message", "hint"],
    }

    def answers(good: tuple[str, str, Schema | None], *codes: int) -> Schema:
        content = {} if good[2] is None else {"content": {"application/json": {"schema": good[2]}}}
        out: Schema = {good[0]: {"description": good[1], **content}}
        for code in codes:
            out[str(code)] = {"description": SAID[code], "content": {"application/json": {"schema": refused}}}
        return out

    body = {"type": "object", "properties": asked, "required": ["observation"], "additionalProperties": False}
    full = {"type": "object", "properties": answer, "required": list(answer), "additionalProperties": False}
    name = {"name": "session", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    act = {
        "operationId": "act",
        "summary": "An observation in, the policy's action out",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": answers(("200", "The action", full), 400, 404, 413, 415, 503),
    }
    end = {
        "operationId": "end",
        "summary": "End a session",
        "parameters": [name],
        "responses": answers(("204", "It is forgotten", None), 404),
    }
    counts = {"sessions": {"type": "integer"}, "most": {"type": "integer"}, "largest_batch": {"type": "integer"}}
    status = {"type": "object", "properties": counts, "required": list(counts), "additionalProperties": False}
    about = {"operationId": "status", "summary": "How busy it is", "responses": answers(("200", "Counts", status))}
    document: Schema = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": {"/act": {"post": act}, "/sessions/{session}": {"delete": end}, "/status": {"get": about}},
    }
    if tokens:
        document["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        document["security"] = [{"token": []}]
    return document


#: What the status of a refused request means.
SAID = {
    400: "Not what the schema says",
    404: "No such session: it has expired or never was",
    413: "Larger than an observation can be",
    415: "Not application/json",
    503: "As many sessions as there may be",
}
