"""The router: Streamlit runs this file. Run with ``moesim dashboard``."""

from __future__ import annotations

from dashboard.views.what_if import main

if __name__ == "__main__":
    main()
