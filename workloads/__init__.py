"""What runs: models, request traces and routing traces, read from files or generated. Nothing here knows a device."""
