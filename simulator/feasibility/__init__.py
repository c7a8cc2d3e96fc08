"""What a server refuses of a deployment that the cost model could price, and what it runs otherwise than asked."""
