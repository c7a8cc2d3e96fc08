"""What ops cost on a device: the one cost model, the grids that it is tabulated on, and how sure it is."""
