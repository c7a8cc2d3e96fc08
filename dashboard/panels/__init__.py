"""The parts beside the form: each draws one tab, or what stands above the tabs."""
