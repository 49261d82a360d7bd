"""Gets the programs that knit needs beside Python's packages; standard library only.

```
temporal_cli ──► sdk_download, go_build ──► cache, progress
sandbox
```
Every program is looked for on the machine first, then in a cache folder, and only then fetched or
built, once, into that folder.
"""
