"""What acts on the live server: faults and rebalancing."""
