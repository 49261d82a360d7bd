"""Lifecycle hooks as the worker that calls them sees them: the hooks file, and calls over HTTP.

```
followed ──► caller, file
caller ──► exchange ──► answers, signing, trust ──► failures
       │            └─► explanations, addresses, envelope
       └─► message                └─► file ──► document, urls
```
Which hooks are in force, and what became of their calls, is in the database (`ports.HookStore`);
secrets and certificates are read here, and never leave this process.
"""
