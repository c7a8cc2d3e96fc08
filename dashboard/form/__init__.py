"""The input form: what is asked of a scenario, a widget a key."""
