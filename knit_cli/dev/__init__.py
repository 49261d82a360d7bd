"""`knit dev`: a whole knit on this machine, in one state folder. A composition root.

```
app ──► starting ──► supervisor ──► services ──► database, ports
  └───► ending ◄─────────┘            all of them ──► state
```
"""
