"""`knit admin renew-certs`: new certificates, in the folder and in the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from knit_cli.admin.cluster import Cluster
from knit_cli.admin.folder import SettingsFolder
from knit_cli.admin.helm.computed_values import has_own_certificates
from knit_cli.admin.installing.preparation import node_addresses
from knit_cli.admin.secret_objects import TLS_SECRET, tls_secret
from knit_cli.admin.tls import certificates
from knit_cli.admin.tls import files as tls_files
from knit_cli.admin.tls.certificates import LOCAL, CertificateRefused
from knit_cli.admin.tls.files import GivenFiles
from knit_cli.admin.workloads import pods_with_secret


def renew(
    folder: SettingsFolder,
    cluster: Cluster,
    *,
    given: GivenFiles,
    hosts: Sequence[str],
    new_authority: bool,
) -> list[str]:
    """Makes a new server certificate for the same names and today's nodes; says what was done.

    What is replaced is set aside. The cluster's Secret follows if it is there: API and registry
    read it again by themselves.

    Raises:
        CliError: the folder's CA cannot sign, or the cluster does not answer.
    """
    if given:
        nodes = [] if given.certificate is not None else node_addresses(cluster)
        wanted = list(dict.fromkeys([*hosts, *_present_names(folder), *nodes]))
        said = tls_files.take_given(folder, given, wanted)
    else:
        wanted = list(dict.fromkeys([*hosts, *_present_names(folder), *node_addresses(cluster)]))
        said = tls_files.make_new(folder, wanted, new_authority=new_authority)
    folder.without_tls.unlink(missing_ok=True)
    return said + bring_to_cluster(folder, cluster)


def bring_to_cluster(folder: SettingsFolder, cluster: Cluster) -> list[str]:
    """Updates the Secret of the cluster, if there is one, and has its users look at it now."""
    wanted = tls_secret(folder)
    present = cluster.find("secret", TLS_SECRET)
    if present is None or wanted is None or not has_own_certificates(folder):
        return []
    if present.get("data") == wanted["data"]:
        return []
    cluster.apply(wanted)
    pods = pods_with_secret(cluster, TLS_SECRET)
    if pods:
        # A change of a pod makes its kubelet look at once, and not only within a minute or two.
        stamp = f"knit/certificates={datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        cluster.kubectl("annotate", "--overwrite", *pods, stamp)
    return [f"secret/{TLS_SECRET}: updated; {len(pods)} pods serve it within seconds"]


def _present_names(folder: SettingsFolder) -> list[str]:
    """Gives the names of the present certificate, which may have expired."""
    content = folder.read_bytes(folder.server_certificate)
    if content is None:
        return []
    try:
        names = certificates.read_certificate(content, str(folder.server_certificate)).names
    except CertificateRefused:  # damaged: that may be why it is renewed
        return []
    return [one for one in names if one not in LOCAL]
