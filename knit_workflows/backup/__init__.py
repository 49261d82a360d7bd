"""Backups: sets in a destination, how they are taken, checked, restored and pruned.

A destination is a folder or a prefix of an S3 bucket. What it holds is never changed, only added
and removed, each object as a whole:

```
blobs/ab/<sha256>.zst      a piece of a volume or a table, compressed; named by its plain content
partial/<sha256>.jsonl     what a backup has finished that has not ended yet
sets/<id>.json             a set: written last. Without this file there is no set.
lock                       who is at work on it
```

A set names all of its pieces by their digests, and itself has one: so whatever was changed or lost
is noticed. Pieces are stored once, however many sets they belong to.
"""

from __future__ import annotations
