"""Why a step takes so long: op by op, and on its streams."""
