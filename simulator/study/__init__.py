"""Questions about one mechanism alone: placements by step time, exchanges by their time."""
