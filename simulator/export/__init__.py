"""Write results for other tools: an output folder, a Perfetto trace, a ``vllm bench serve`` result.

The writers know frames and plain values; nothing here knows the engine.
"""
