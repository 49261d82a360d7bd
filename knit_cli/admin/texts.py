"""The README files that `knit admin` writes."""

from __future__ import annotations

from typing import Final

FOLDER_README: Final = """\
# Settings of a knit installation

`knit admin` installs knit from this folder. **It holds secrets**: keys, a token with all rights on
knit, the access to the cluster. Keep it where only administrators read, and keep a backup.

| file | holds |
|---|---|
| `namespace` | the namespace of the cluster |
| `kubeconfig` | the access to the cluster: a copy, complete in itself |
| `certs/ca.crt`, `ca.key` | the authority that users trust; its key never leaves this folder |
| `certs/server.crt`, `server.key` | the certificate of API and registry |
| `certs/no-tls` | exists if both speak plain HTTP, behind a balancer |
| `values/NAME.yaml` | values of a chart, to edit; without the file it is left out |
| `values/hooks.yaml`, `values/extra-api.yaml` | lifecycle hooks, and extra APIs |
| `knit-image-registry-secret.yaml` | a Secret to pull knit's images with, if one is needed |
| `bootstrap-token` | the first administrator's token, made by `knit admin install` |
| `api-root` | the address for users, if it is not that of a node |
| `handouts/` | what users get, made by `knit admin handout` |

```sh
knit admin install        # or bring an installation in line with this folder, after an edit
knit admin status
knit admin doctor         # checks everything, and says how to mend what it finds
knit admin renew-certs
knit admin uninstall      # --hard: with all Data
```
"""

HANDOUT_README: Final = """\
# How to use this knit

```sh
knit init knitprofile     # in the folder of your project, once
knit login                # or: export KNIT_TOKEN=…, a token that your administrator gave you
knit data find
```

The API is at {api_root}
{registry}"""

REGISTRY_README: Final = """\

## Images

Let docker trust the registry, once; as root:

```sh
mkdir -p /etc/docker/certs.d && cp -r docker/certs.d/* /etc/docker/certs.d/
```

(Docker Desktop on Windows: `%USERPROFILE%\\docker\\certs.d`; Podman: `/etc/containers/certs.d`)

```sh
docker login {registry}          # if your administrator gave you an account there
docker tag my-image {registry}/my-image:v1
docker push {registry}/my-image:v1
```

In Plans the same image is called `localhost:{port}/my-image:v1`: the nodes pull it from themselves.
"""

PLAIN_REGISTRY_README: Final = """\

## Images

The registry {registry} speaks plain HTTP: name it in docker's `insecure-registries`. In Plans an
image that was pushed to {registry}/my-image:v1 is called `localhost:{port}/my-image:v1`.
"""
