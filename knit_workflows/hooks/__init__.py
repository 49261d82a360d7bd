"""Lifecycle hooks as the worker that calls them sees them: the hooks file, and calls over HTTP.

```
caller ──► answers, envelope, signing, trust ──► failures ──► addresses ──► file ──► document, urls
       └─► message
```
Which hooks are in force, and what became of their calls, is in the database (`ports.HookStore`);
secrets and certificates are read here, and never leave this process.
"""
