"""The engine: requests through schedulers, pools, caches and links in discrete events, one event per step."""
