"""`knit plan template`."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile

import pytest
import yaml

from knit_cli.plans.file import read_plan

CONFIG = {
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": []},
    "config": {
        "Entrypoint": ["python", "-u", "train.py", "/in/dataset"],
        "Cmd": ["--out=/out/model", "in/params", "https://host/in/x", "plain"],
        "Volumes": {"/data/out": {}},
        "WorkingDir": "/app",
    },
}
DIGEST = "a" * 64
MANIFEST_DIGEST = "b" * 64


def archive(files: dict[str, object]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as opened:
        for name, content in files.items():
            encoded = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(encoded)
            opened.addfile(member, io.BytesIO(encoded))
    return out.getvalue()


def docker_archive(*names: str, config: object = CONFIG) -> bytes:
    """As `docker save` writes it: a layer first, the manifest last."""
    manifest = [{"Config": "c.json", "RepoTags": list(names) or None, "Layers": ["l/layer.tar"]}]
    return archive({"l/layer.tar": b"\0" * 10_000, "c.json": config, "manifest.json": manifest})


def oci_archive() -> bytes:
    attestation = {"os": "unknown", "rootfs": {}, "config": {}}
    return archive(
        {
            "oci-layout": {"imageLayoutVersion": "1.0.0"},
            "index.json": {
                "manifests": [
                    {
                        "digest": f"sha256:{MANIFEST_DIGEST}",
                        "annotations": {"io.containerd.image.name": "host:5000/train:v1"},
                    },
                    {"digest": f"sha256:{'c' * 64}"},
                ]
            },
            f"blobs/sha256/{MANIFEST_DIGEST}": {"config": {"digest": f"sha256:{DIGEST}"}},
            f"blobs/sha256/{DIGEST}": CONFIG,
            f"blobs/sha256/{'c' * 64}": {"config": {"digest": f"sha256:{'d' * 64}"}},
            f"blobs/sha256/{'d' * 64}": attestation,
        }
    )


@pytest.mark.parametrize("content", [docker_archive("host:5000/train:v1"), oci_archive()])
def test_inputs_and_outputs_are_guessed_from_what_the_image_runs(bare_knit, api, content):
    knit = bare_knit  # needs no profile
    knit.write("knitenv", 'tag: ["project:demo"]\nresource: {cpu: "4"}')
    knit.write("image.tar", content)
    ended = knit("plan", "template", "-i", "image.tar")
    assert (ended.code, ended.err) == (0, "")
    assert yaml.safe_load(ended.out) == {
        "annotations": [],
        "image": "host:5000/train:v1",
        "entrypoint": ["python", "-u", "train.py", "/in/dataset"],
        "args": ["--out=/out/model", "in/params", "https://host/in/x", "plain"],
        "inputs": [
            {"path": "/in/dataset", "tags": ["project:demo", "type:dataset"]},
            {"path": "/app/in/params", "tags": ["project:demo", "type:params"]},
        ],
        "outputs": [
            {"path": "/out/model", "tags": ["project:demo", "type:model"]},
            {"path": "/data/out", "tags": ["project:demo", "type:data"]},
        ],
        "log": {"tags": ["type:log", "project:demo"]},
        "active": True,
        "resources": {"cpu": "4", "memory": "1Gi"},
    }
    knit.write("plan.yaml", ended.out)
    assert read_plan(knit.cwd / "plan.yaml").spec.image == "host:5000/train:v1"
    assert api.requests == []


def test_scratch_gives_one_input_and_one_output(bare_knit):
    ended = bare_knit("plan", "template", "--scratch")
    plan = yaml.safe_load(ended.out)
    assert plan["image"] == "image:version"
    assert plan["inputs"] == [{"path": "/in", "tags": ["example:tag"]}]
    assert plan["outputs"] == [{"path": "/out", "tags": ["example:tag"]}]


def test_every_resource_of_the_project_is_in_the_plan(bare_knit):
    """Not only those that every Plan has: the Plan says what the project asks for."""
    resources = "{nvidia.com/gpu: 2, ephemeral-storage: 5Gi, memory: 8Gi}"
    bare_knit.write("knitenv", f"resource: {resources}")
    ended = bare_knit("plan", "template", "--scratch")
    wanted = {"cpu": "1", "memory": "8Gi", "nvidia.com/gpu": "2", "ephemeral-storage": "5Gi"}
    assert yaml.safe_load(ended.out)["resources"] == wanted
    bare_knit.write("plan.yaml", ended.out)
    assert read_plan(bare_knit.cwd / "plan.yaml").spec.resources == wanted


@pytest.mark.parametrize("name", ["yes", "1", "a: b", "a/b: c", "#x", "/", "/#"])
def test_a_resource_with_an_odd_name_is_still_one_key(bare_knit, name):
    bare_knit.write("knitenv", yaml.safe_dump({"resource": {name: "1"}}))
    ended = bare_knit("plan", "template", "--scratch")
    assert yaml.safe_load(ended.out)["resources"][name] == "1"


def test_an_image_without_a_name_is_left_to_the_user(bare_knit):
    bare_knit.write("image.tar", docker_archive())
    ended = bare_knit("plan", "template", "-i", "image.tar")
    assert yaml.safe_load(ended.out)["image"] == "IMAGE:TAG"


def test_the_argument_chooses_an_image(bare_knit):
    bare_knit.write("image.tar", docker_archive("a:1", "b:2"))
    ended = bare_knit("plan", "template", "b:2", "--input", "image.tar")
    assert yaml.safe_load(ended.out)["image"] == "b:2"
    ended = bare_knit("plan", "template", "c:3", "--input", "image.tar")
    assert (ended.code, ended.out) == (1, b"")
    assert "a:1, b:2" in ended.err


def test_several_images_need_an_argument(bare_knit):
    other = {**CONFIG, "config": {}}
    manifest = [
        {"Config": "1.json", "RepoTags": ["a:1"]},
        {"Config": "2.json", "RepoTags": ["b:2"]},
    ]
    files = {"1.json": CONFIG, "2.json": other, "manifest.json": manifest}
    bare_knit.write("image.tar", archive(files))
    ended = bare_knit("plan", "template", "-i", "image.tar")
    assert ended.code == 1
    assert "more than one image" in ended.err
    ended = bare_knit("plan", "template", "b:2", "-i", "image.tar")
    assert yaml.safe_load(ended.out)["inputs"] == []


def test_images_without_names_cannot_be_chosen(bare_knit):
    bare_knit.write("one.tar", docker_archive())
    ended = bare_knit("plan", "template", "b:2", "-i", "one.tar")
    assert "reason: it contains one without a name\n" in ended.err
    manifest = [{"Config": name, "RepoTags": None} for name in ("1.json", "2.json")]
    files = {"1.json": CONFIG, "2.json": {**CONFIG, "config": {}}, "manifest.json": manifest}
    bare_knit.write("two.tar", archive(files))
    ended = bare_knit("plan", "template", "-i", "two.tar")
    assert "reason: it contains several without a name\n" in ended.err


@pytest.mark.parametrize(
    "content", [b"", b"no tar at all" * 100, archive({"x": {}}), docker_archive("a:1")[:5000]]
)
def test_what_is_no_image_is_an_error(bare_knit, content):
    bare_knit.write("image.tar", content)
    ended = bare_knit("plan", "template", "-i", "image.tar")
    assert (ended.code, ended.out) == (1, b"")
    assert "archive" in ended.err


def test_a_file_that_is_not_there(bare_knit):
    ended = bare_knit("plan", "template", "-i", "nowhere.tar")
    assert ended.code == 1
    assert "nowhere.tar" in ended.err


# ------------------------------------------------------------ as the tools write them


def blob(files, document):
    """Puts a document into the files of an OCI layout; gives its descriptor."""
    content = json.dumps(document).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    files[f"blobs/{digest.replace(':', '/')}"] = content
    return {"digest": digest, "size": len(content)}


def layout(*entries):
    """An oci-archive as buildah and skopeo write it.

    An entry is its `ref.name` (None: without), and configs by platform: one is there as it is, of
    several there is an index.
    """
    files, listed = {"oci-layout": {"imageLayoutVersion": "1.0.0"}}, []
    for name, configs in entries:
        manifests = []
        for platform, config in configs.items():
            system, architecture, *variant = platform.split("/")
            where = {
                "os": system,
                "architecture": architecture,
                **dict.fromkeys(["variant"][: len(variant)], *variant),
            }
            described = blob(files, {**config, **where})
            manifest = {"schemaVersion": 2, "config": described, "layers": []}
            manifests.append({**blob(files, manifest), "platform": where})
        one = manifests[0] if len(configs) == 1 else blob(files, {"manifests": manifests})
        note = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
        listed.append({**one, **note})
    return archive({**files, "index.json": {"schemaVersion": 2, "manifests": listed}})


BOTH = {"linux/amd64": CONFIG, "linux/arm64/v8": CONFIG}
OTHER = {**CONFIG, "config": {"Cmd": ["other", "/out/x"]}}


@pytest.fixture
def template(bare_knit):
    """Gives the Plan that the template of an archive has, or what it says instead."""

    def written(content, *arguments):
        bare_knit.write("image.tar", content)
        ended = bare_knit("plan", "template", "-i", "image.tar", *arguments)
        assert (ended.code == 0) != bool(ended.err)
        return yaml.safe_load(ended.out) if ended.code == 0 else ended.err

    return written


@pytest.mark.parametrize(
    ("name", "asked", "image"),
    [
        ("v1", [], "IMAGE:v1"),  # skopeo copy … oci-archive:x.tar:v1
        ("v1", ["v1"], "IMAGE:v1"),
        ("v1", ["host:5000/t:v1"], "host:5000/t:v1"),  # who knows the name may say it
        ("localhost/t:v1", [], "localhost/t:v1"),  # podman
        (None, [], "IMAGE:TAG"),
        ("docker.io/library/t:v1", ["t:v1"], "t:v1"),
        ("docker.io/me/t:v1", ["me/t:v1"], "me/t:v1"),
        ("docker.io/library/t:latest", ["t"], "t"),
        ("t:v1", ["docker.io/library/t:v1"], "docker.io/library/t:v1"),
    ],
)
@pytest.mark.parametrize("configs", [{"linux/amd64": CONFIG}, BOTH])
def test_names_of_oci_archives(template, name, asked, image, configs):
    assert template(layout((name, configs)), *asked)["image"] == image


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["docker.io/library/t:v1", "localhost/t:v1"], "t:v1"),  # buildah gives both
        (["docker.io/library/t:v1", "localhost/t:v1"], "localhost/t:v1"),
        (["docker.io/library/t:v1"], "t:v1"),
    ],
)
def test_names_of_docker_archives(template, names, asked):
    assert template(docker_archive(*names))["image"] == names[0]
    assert template(docker_archive(*names), asked)["image"] == asked


@pytest.mark.parametrize("asked", ["t:v2", "me/t:v1", "localhost/t:v1", "v1", "t"])
def test_a_name_that_means_another_image_is_not_found(template, asked):
    assert "it contains docker.io/library/t:v1" in template(
        docker_archive("docker.io/library/t:v1"), asked
    )


def test_a_name_word_for_word_goes_before_one_that_means_the_same(template):
    both = layout(
        ("docker.io/library/t:v1", {"linux/amd64": OTHER}), ("t:v1", {"linux/amd64": CONFIG})
    )
    assert template(both, "t:v1")["args"] == CONFIG["config"]["Cmd"]


def test_platforms_that_are_listed_without_an_index_are_one_image_too(template):
    flat = layout((None, {"linux/amd64": CONFIG}), (None, {"linux/arm64": CONFIG}))
    assert template(flat)["args"] == CONFIG["config"]["Cmd"]
    flat = layout(("t:v1", {"linux/amd64": CONFIG}), ("t:v1", {"linux/arm64": CONFIG}))
    assert template(flat)["image"] == "t:v1"


def test_two_images_of_one_platform_are_two(template):
    both = layout((None, {"linux/amd64": CONFIG}), (None, {"linux/amd64": OTHER}))
    assert "several without a name" in template(both)
    both = layout(("a", {"linux/amd64": CONFIG}), ("b", {"linux/amd64": OTHER}))
    assert "it contains a, b" in template(both)


def test_platforms_that_run_different_things_are_asked_for(template):
    image = layout(("v1", {"linux/amd64": CONFIG, "linux/arm64": OTHER}))
    said = template(image)
    assert (
        "the archive contains linux/amd64, linux/arm64\nhint: choose one: --platform linux/amd64"
        in said
    )
    assert template(image, "--platform", "linux/arm64")["args"] == ["other", "/out/x"]
    said = template(image, "--platform", "linux/s390x")
    assert "does not contain the image for linux/s390x" in said


@pytest.mark.parametrize("command", ["validate", "apply"])
def test_what_is_left_open_must_be_filled_in(knit, api, command):
    knit.write("image.tar", layout(("v1", BOTH)))
    knit.write("plan.yaml", knit("plan", "template", "-i", "image.tar").out)
    ended = knit("plan", command, "plan.yaml")
    assert (ended.code, ended.out) == (1, b"")
    assert "IMAGE is a placeholder; replace it by the name of the image" in ended.err
    assert "plan.yaml:8:" in ended.err
    assert api.requests == []


def test_scratch_takes_no_image(bare_knit):
    assert bare_knit("plan", "template", "a:1", "--scratch").code == 2


@pytest.mark.patient
def test_the_archive_may_come_through_a_pipe(tmp_path):
    """The real program, since only it has a real stdin."""
    ended = subprocess.run(
        [sys.executable, "-m", "knit_cli", "plan", "template"],
        input=docker_archive("a:1"),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert yaml.safe_load(ended.stdout)["image"] == "a:1"
