"""`knit dev`: a complete knit on this machine, in one state folder. A composition root.

```
app ──► startup ──► supervisor ──► child_process ──► services
  └───► shutdown ◄──────┘          all of them ──► dev_folder, ports
```
"""
