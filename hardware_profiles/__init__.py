"""Where models run: devices, nodes, clusters and prices as files, each number with unit, source and status."""
