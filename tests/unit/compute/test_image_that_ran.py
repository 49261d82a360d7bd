"""What is recorded of the image of a container."""

from __future__ import annotations

import pytest

from knit_workflows.compute.image_that_ran import image_that_ran

D = "sha256:cd"


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("registry.example/train:v1", "registry.example/train"),
        ("registry.example:5000/a/train", "registry.example:5000/a/train"),
        ("localhost/train:v1", "localhost/train"),
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1.36@sha256:ef", "index.docker.io/library/busybox"),
        ("someone/train:v1", "docker.io/someone/train"),
        ("docker.io/busybox", "busybox"),
        ("registry.example/train:v1", "docker-pullable://registry.example/train"),
    ],
)
def test_the_digest_alone_if_it_is_of_the_plans_repository(image: str, repository: str) -> None:
    """However either of them is written."""
    assert image_that_ran([f"{repository}@{D}"], "sha256:id", image) == D


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("registry.example/train:v1", "registry.example/other"),
        ("registry.example/train:v1", "mirror.example/train"),
        ("registry.example:5000/train", "registry.example/train"),
        ("train", "localhost/train"),
        ("someone/train", "docker.io/library/train"),
    ],
)
def test_else_with_its_own_repository(image: str, repository: str) -> None:
    """The Plan's repository may not have that digest at all."""
    reference = f"{repository}@{D}"
    assert image_that_ran([reference], "sha256:id", image) == reference


def test_the_plans_own_comes_first() -> None:
    known = ["other@sha256:ef", f"registry.example/train@{D}"]
    assert image_that_ran(known, "sha256:id", "registry.example/train") == D


def test_an_image_that_was_in_no_registry_has_no_digest() -> None:
    """Only an id, by which nobody can pull it; it says so."""
    assert image_that_ran(["sha256:id"], "sha256:id", "train") == "id:sha256:id"
    assert image_that_ran([], "", "train") is None
