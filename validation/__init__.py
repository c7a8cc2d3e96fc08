"""Why to believe it: microbenchmarks, fits, and comparisons with measurements, papers and earlier predictions."""
