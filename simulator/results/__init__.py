"""What comes out: values, and how a run is condensed to them."""
