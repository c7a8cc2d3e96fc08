"""The page in the browser: a form that writes a scenario, and panels and figures that show its answers."""
