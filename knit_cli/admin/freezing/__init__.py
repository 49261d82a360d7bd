"""`knit admin freeze` and `thaw`: brings an installation to rest, and back to work.

```
freeze, thaw ──► rest (what is under way) ──► record (what is remembered in the cluster)
            └──► script (system-unfreeze.sh) ──┘
```
"""
