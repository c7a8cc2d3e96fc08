"""A model on hardware, split and run by a stack: priced once, asked often."""
