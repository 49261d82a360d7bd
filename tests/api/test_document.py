"""The OpenAPI document tells all of the API: nothing missing, nothing that is not so."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI
from starlette.routing import Match

from knit_api.openapi import examples
from knit_api.openapi.document import operations

JSON = "application/json"


@pytest.fixture
def document(one_app: FastAPI) -> dict[str, Any]:
    return json.loads(json.dumps(one_app.openapi()))


def valid(document: dict[str, Any], schema: dict[str, Any], value: object) -> bool:
    whole = {**schema, "components": document["components"]}
    return bool(jsonschema_rs.Draft202012Validator(whole).is_valid(value))


def contents(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in (operation.get("requestBody", {}), *operation["responses"].values()):
        yield from part.get("content", {}).values()


def test_it_is_openapi_3_1_without_loose_ends(document: dict[str, Any]) -> None:
    """Every reference leads to a schema, every schema is referred to."""
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert set(names) == set(schemas)
    assert "planId" in schemas["Plan"]["properties"]
    assert "image" in schemas["PlanSpecIn"]["required"]


def test_every_path_and_method_of_the_app_is_in_it(one_app: FastAPI, document) -> None:
    ids = "00000000-0000-4000-8000-000000000000"
    for path in document["paths"]:
        concrete = re.sub(r"\{\w+\}", ids, path)
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT"):
            scope = {
                "type": "http", "path": concrete, "method": method, "root_path": "", "headers": [],
            }  # fmt: skip
            served = any(route.matches(scope)[0] is Match.FULL for route in one_app.routes)
            assert served == (method.lower() in document["paths"][path]), (method, path)


def test_every_operation_says_all_there_is_to_say(document: dict[str, Any]) -> None:
    """A description, its parameters with theirs, its statuses, and how to ask for it."""
    seen = set()
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        seen.add(operation["operationId"])
        assert operation["description"].endswith("."), where
        assert operation["tags"], where
        assert "422" not in operation["responses"], where
        assert {"200", "204"} & operation["responses"].keys(), where
        in_path = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", path)), where
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], (where, parameter["name"])
            assert parameter["schema"], (where, parameter["name"])
        if in_path:
            assert "404" in operation["responses"], where
        if path.startswith("/api/") and path != "/api/version":
            assert "503" in operation["responses"], where
        if JSON in operation.get("requestBody", {}).get("content", {}):
            assert {"400", "413"} <= operation["responses"].keys(), where
        (sample,) = operation["x-codeSamples"]
        assert shlex.split(sample["source"])[0] == "curl", where
    assert len(seen) == sum(1 for _ in operations(document)), "operationIds are unique"
    assert set(examples.OPERATIONS) <= seen, "an example of an operation that is no more"


@pytest.mark.patient
def test_all_json_has_an_example_and_examples_are_true(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for kind in (operation.get("requestBody", {}), *operation["responses"].values()):
            for media, content in kind.get("content", {}).items():
                if media == JSON:
                    assert "example" in content, (method, path)
                    assert valid(document, content["schema"], content["example"]), (method, path)
        for parameter in operation.get("parameters", ()):
            if "example" in parameter:
                assert valid(document, parameter["schema"], parameter["example"]), parameter


def test_it_refuses_wrong_examples(document: dict[str, Any]) -> None:
    """The test above would notice."""
    schema = {"$ref": "#/components/schemas/Data"}
    assert valid(document, schema, examples.OPERATIONS["show_data"].response)
    assert not valid(document, schema, {"knitId": 1})


async def test_it_is_served_for_programs_and_for_people(client, document) -> None:
    answer = await client.get("/openapi.json")
    assert answer.json() == document
    for path in ("/docs", "/docs/"):
        page = await client.get(path)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for _, _, operation in operations(document):
            assert f'id="{operation["operationId"]}"' in page.text
        for anchor in re.findall(r'href="#([^"]+)"', page.text):
            assert f'id="{anchor}"' in page.text
    assert "<script" not in page.text
    assert "src=" not in page.text
