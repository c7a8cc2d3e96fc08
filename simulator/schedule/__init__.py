"""One step on named resources: ops that overlap, and messages that share links."""
