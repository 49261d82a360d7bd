"""Backups of Knitfab, in the three parts of its guide: what they hold, and how knit takes it over.

```
db/dump.tar.gz                            the database, by `pg_dump -F tar`, compressed by gzip
data/<claim>/{pvc.json,data.tar.gz}       a claim and its content, one folder per Data
images/{pvc.json,data.tar.gz}             the same of the registry
```
A backup becomes what a set of knit's own is: rows of knit's tables and archives of volumes. From
there on a restore is the same, so nothing is switched on before all of it is there.
"""

from __future__ import annotations
