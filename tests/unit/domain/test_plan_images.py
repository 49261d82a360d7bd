from __future__ import annotations

import pytest

from knit_workflows.domain.errors import InvalidPlan
from knit_workflows.domain.plans.images import parse_image
from knit_workflows.domain.plans.model import Image
from knit_workflows.domain.plans.rules import parse_plan
from tests.plan_documents import plan_document

HEX = "0123456789abcdef" * 4
PINNED = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("train", Image("train", "latest")),
        ("a", Image("a", "latest")),
        ("a:1", Image("a", "1")),
        ("train:v2", Image("train", "v2")),
        ("repo/train", Image("repo/train", "latest")),
        ("localhost:5000/x", Image("localhost:5000/x", "latest")),
        ("localhost:30503/train:v2", Image("localhost:30503/train", "v2")),
        ("localhost/train:v2", Image("localhost/train", "v2")),
        ("gcr.io/a/b-c_d.e:V.1_2-3", Image("gcr.io/a/b-c_d.e", "V.1_2-3")),
        ("Registry.Example.COM/a:1", Image("Registry.Example.COM/a", "1")),
        ("REGISTRY/a", Image("REGISTRY/a", "latest")),
        ("registry:65535/a/b/c", Image("registry:65535/a/b/c", "latest")),
        ("127.0.0.1:5000/a", Image("127.0.0.1:5000/a", "latest")),
        ("[::1]:5000/train:v2", Image("[::1]:5000/train", "v2")),
        ("[FE80::1]/train", Image("[FE80::1]/train", "latest")),
        ("host/python:3.11", Image("host/python", "3.11")),
        ("a__b/c---d/e.f_g", Image("a__b/c---d/e.f_g", "latest")),
        (f"a/{'x' * 253}:{'t' * 128}", Image(f"a/{'x' * 253}", "t" * 128)),
        ("x" * 247, Image("x" * 247, "latest")),
        (f"my.host/{'x' * 255}", Image(f"my.host/{'x' * 255}", "latest")),
        (f"train@{PINNED}", Image("train", "", PINNED)),
        (f"train:v2@{PINNED}", Image("train", "v2", PINNED)),
        (f"localhost:5000/x@{PINNED}", Image("localhost:5000/x", "", PINNED)),
        (f"train@sha512:{HEX * 2}", Image("train", "", f"sha512:{HEX * 2}")),
        (f"docker.io/host/x@{PINNED}", Image("docker.io/host/x", "", PINNED)),
        (f"a/{HEX}", Image(f"a/{HEX}", "latest")),
    ],
)
def test_an_image_is_kept_as_it_is_named(text: str, image: Image) -> None:
    assert parse_image(text, "image") == image
    assert str(image) == (text if image.digest or image.image_tag != "latest" else f"{text}:latest")
    plan = {"image": text, "inputs": [{"path": "/in", "tags": ["a:1"]}]}
    assert parse_plan(plan_document(parse_plan(plan))).image == image


@pytest.mark.parametrize(
    ("text", "reason", "advice"),
    [
        ("Train", "not the name", "lower case: train"),
        ("localhost:5000/Train", "not the name", "lower case: localhost:5000/train"),
        ("a/B", "not the name", "lower case: a/b"),
        ("tr ain", "not the name", "repository"),
        ("a//b", "not the name", "repository"),
        ("/train", "not the name", "repository"),
        ("train/", "not the name", "repository"),
        ("-a", "not the name", "repository"),
        ("a-", "not the name", "repository"),
        ("a..b", "not the name", "repository"),
        ("a___b", "not the name", "repository"),
        (".hidden/x", "not the address", "host:port"),
        ("localhost:30503/", "not the name", "repository"),
        ("x\n", "not the name", "repository"),
        ("user/name/" * 30 + "x", "too long", "255 characters"),
        ("x" * 248, "too long", "247 characters"),
        ("docker.io/" + "x" * 248, "too long", "247 characters"),
        ("my.host/" + "x" * 256, "too long", "255 characters"),
        (HEX, "not the name", "the id of an image"),
        ("localhost:port/x1", "not the address", "host:port"),
        ("my.host:1:2/x1", "not the address", "host:port"),
        ("-.example.com/x", "not the address", "host:port"),
        ("my_host.com/x", "not the address", "host:port"),
        ("[::1/x", "not the address", "host:port"),
        ("x" * 64 + ".com/y", "not the address", "host:port"),
        ("x." * 127 + "com/y", "not the address", "host:port"),
        ("my.host:0/x", "no port", "65535"),
        ("my.host:65536/x", "no port", "65535"),
        (f"my.host:{'9' * 5000}/x", "no port", "65535"),
        ("train:v 1", "not the tag", "128 letters"),
        ("train:ä", "not the tag", "128 letters"),
        ("train:.v1", "not the tag", "no '.' or '-' in front"),
        ("train:-v1", "not the tag", "no '.' or '-' in front"),
        ("train:" + "t" * 129, "not the tag", "128 letters"),
        ("train@", "not the digest", "64 hexadecimal"),
        ("train@sha256:", "not the digest", "64 hexadecimal"),
        (f"train@{HEX}", "not the digest", "sha256:"),
        (f"train@{PINNED[:-1]}", "not the digest", "64 hexadecimal"),
        (f"train@{PINNED.upper()}", "not the digest", "lower case"),
        (f"train@md5:{HEX[:32]}", "not the digest", "sha256:"),
        (f"train@{PINNED}@{PINNED}", "not the digest", "one @"),
        (f"host/python@{PINNED}", "the machine itself", "docker.io/host/python"),
        (f"host/python:3@{PINNED}", "the machine itself", "leave the digest out"),
    ],
)
def test_what_no_engine_could_pull_is_refused(text: str, reason: str, advice: str) -> None:
    with pytest.raises(InvalidPlan) as caught:
        parse_image(text, "image")
    assert reason in caught.value.reason
    assert advice in caught.value.advice
    assert caught.value.see == "image"


@pytest.mark.parametrize("text", ["", ":v1", "train:", f":v1@{PINNED}", f"train:@{PINNED}"])
def test_a_part_that_is_empty_is_refused_in_its_turn(text: str) -> None:
    with pytest.raises(InvalidPlan, match="no name or no tag"):
        parse_plan({"image": text, "inputs": [{"path": "/in", "tags": ["a:1"]}]})
