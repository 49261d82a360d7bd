"""Starts the machine's one test cluster, finds it when it runs, and removes all its traces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import cgroups
import health
import network
from binaries import ensure_node_packages, kubernetes_folder
from components import write_configuration
from images import ensure_images, forget_if_large
from kube_api import Access, KubeApi
from layout import CNI_FOLDER, KUBELET_FOLDER, Layout, images_folder
from node import ENDED
from record import LOCK, RECORD, Record, boot_id

from knit_workflows.provision.cache import SetUpError, cache_root, locked

_LAYOUT = "layout.json"


def up(with_app: bool = False) -> dict[str, object]:
    """Returns where the running cluster is; starts one when there is none, over any remains.

    Raises:
        SetUpError: it cannot be started; nothing of the attempt is left but its logs.
    """
    if os.geteuid() != 0:
        raise SetUpError("The test cluster needs root. Or name a cluster in KNIT_TEST_KUBECONFIG.")
    began = time.monotonic()
    with locked(LOCK):
        record = Record.read()
        layout = _running(record)
        if layout:
            images = ensure_images(layout.registry, with_app)
        else:
            _remove(record)
            layout, images = _start(with_app)
    return {
        "kubeconfig": str(layout.kubeconfig),
        "registry": layout.registry,
        "images": images,
        "seconds": round(time.monotonic() - began, 1),
    }


def down() -> bool:
    """Ends the cluster and removes what it made, also after a crash; False when there was none."""
    with locked(LOCK):
        record = Record.read()
        found = record is not None or network.has_bridge()
        _remove(record)
    return found


def logs_folder() -> Path:
    """Returns where the logs of the last failed start are kept."""
    return cache_root() / "cluster" / "failed-log"


def _running(record: Record | None) -> Layout | None:
    if record is None or not record.proven or not record.is_alive():
        return None
    layout = Layout.read(Path(record.state, _LAYOUT))
    return layout if _api(layout).is_ready() else None


def _api(layout: Layout) -> KubeApi:
    return KubeApi(Access.in_folder(layout.server, layout.certificates))


def _start(with_app: bool) -> tuple[Layout, dict[str, str]]:
    ensure_node_packages()
    kubernetes = kubernetes_folder()
    if network.has_foreign_node():
        raise SetUpError(
            "Another Kubernetes node keeps rules in this machine's iptables: "
            "name its cluster in KNIT_TEST_KUBECONFIG, or stop it."
        )
    layout = Layout.fresh()
    forget_if_large()
    images_folder().mkdir(parents=True, exist_ok=True)
    record = Record(str(layout.state), boot_id(), 0, "", network.kernel_settings())
    # Written before anything is made: a start that is killed half-way can be cleaned up.
    record.write()
    try:
        record = _start_node(layout, kubernetes, record)
        images = _fill(layout, record, with_app)
        record.as_proven().write()
    except BaseException:
        _keep_logs(layout)
        _remove(record)
        raise
    return layout, images


def _start_node(layout: Layout, kubernetes: Path, record: Record) -> Record:
    layout.state.mkdir(parents=True)
    layout.write(layout.state / _LAYOUT)
    write_configuration(layout)
    cgroups.create()
    network.create_bridge(layout.addresses)
    program = Path(__file__).resolve().parent / "node.py"
    command = [sys.executable, str(program), str(layout.state / _LAYOUT), str(kubernetes)]
    tools = os.pathsep.join(sys.path)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": tools}
    )
    if done.returncode != 0:
        raise SetUpError("The node's first process could not be started; its words are above.")
    record = record.with_init(int(done.stdout))
    record.write()
    return record


def _fill(layout: Layout, record: Record, with_app: bool) -> dict[str, str]:
    """Brings images in while the node comes up, then shows that it works."""
    still_alive = _watch_node(layout, record)
    with ThreadPoolExecutor() as pool:
        images = pool.submit(_images, layout, with_app, still_alive)
        api = _api(layout)
        health.wait_for_api(api, still_alive)
        health.create_storage_class(api)
        health.wait_for_node(api, still_alive)
        references = images.result()
    health.probe(api, references["busybox"])
    return references


def _images(layout: Layout, with_app: bool, still_alive: Callable[[], None]) -> dict[str, str]:
    health.wait_for_registry(layout.registry, still_alive)
    return ensure_images(layout.registry, with_app)


def _watch_node(layout: Layout, record: Record) -> Callable[[], None]:
    def still_alive() -> None:
        if record.is_alive():
            return
        reason = "The node's first process is gone."
        with suppress(OSError):
            reason = (layout.state / ENDED).read_text().strip()
        raise SetUpError(f"The node ended while it was starting: {reason}")

    return still_alive


def _keep_logs(layout: Layout) -> None:
    shutil.rmtree(logs_folder(), ignore_errors=True)
    with suppress(OSError):
        shutil.copytree(layout.logs, logs_folder())
        print(f"the components' logs are kept in {logs_folder()}", file=sys.stderr)


def _remove(record: Record | None) -> None:
    """Removes everything of a cluster, be it alive, dead, half made or half removed.

    Without a record (lost, or unreadable) the fixed names tell what is ours.
    """
    state = Path(record.state) if record else Layout.default_state()
    if record:
        record.end()
    cgroups.remove()
    if record or network.has_bridge():
        network.remove()
    if record and record.boot == boot_id():
        network.restore_kernel_settings(record.settings)
    shutil.rmtree(state, ignore_errors=True)
    for mount_point in (KUBELET_FOLDER, CNI_FOLDER):
        with suppress(OSError):
            mount_point.rmdir()  # Only when empty: others may use it.
    RECORD.unlink(missing_ok=True)
