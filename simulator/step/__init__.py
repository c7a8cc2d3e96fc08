"""What one engine step is: its work, the tables that it is priced from, its time and its parts."""
