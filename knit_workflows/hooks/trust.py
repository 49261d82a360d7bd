"""Whom calls under TLS trust: the system's authorities, and those of one more file."""

from __future__ import annotations

import ssl
from pathlib import Path

from knit_workflows.hooks.failures import CallFailed, unreadable


class Trust:
    """Makes TLS contexts; a new one when the content of the file has changed."""

    def __init__(self, ca_file: Path | None) -> None:
        self._ca_file = ca_file
        self._content: bytes | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Gives the context for a call.

        Raises:
            CallFailed: the file cannot be read, or has no certificates.
        """
        content = self._read()
        if self._context is None or content != self._content:
            self._context, self._content = self._made(content), content
        return self._context

    def _read(self) -> bytes | None:
        if self._ca_file is None:
            return None
        try:
            return self._ca_file.read_bytes()
        except OSError as cause:
            raise unreadable("the file of authorities", self._ca_file, cause) from cause

    def _made(self, content: bytes | None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if content is not None:
            # An authority of the file is trusted even if it is an intermediate.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            try:
                context.load_verify_locations(cafile=self._ca_file)
            except OSError as cause:  # ssl.SSLError among them
                words = getattr(cause, "reason", None) or cause.strerror
                raise CallFailed(
                    f"the file of authorities {self._ca_file} has no usable certificates "
                    f"(KNIT_HOOKS__CA_FILE wants PEM): {words}"
                ) from cause
        return context
