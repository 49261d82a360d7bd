"""Obtains the programs that knit needs besides Python packages; standard library only.

```
temporal_cli ──► sdk_download, go_build ──► cache, progress
sandbox
```
A program is first looked for on the machine, then in a cache folder, and only then downloaded or
built, once, into that folder.
"""
