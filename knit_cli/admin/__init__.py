"""Installs knit on a cluster and looks after it: the settings folder, helm and kubectl.

```
preparation   installation   removal   handout   renewal   status   doctor
      └───────┴──────┬───────┴─────────┴─────────┴─────────┴───────┘
          cluster (helm, kubectl)   charts   certificates   folder
```
Nothing secret is ever an argument of a process, nor a value of a chart.
"""
