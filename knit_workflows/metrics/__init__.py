"""What processes of knit tell Prometheus: what is measured, and the port where it is read.

```
exposition ──► instruments      also read: Temporal's core, which measures itself
```
Whoever does something counts it, in an instrument of `instruments`; that costs about a microsecond
whether or not anybody reads it.
"""
