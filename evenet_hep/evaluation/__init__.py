"""How good a trained network is: numbers, figures, and a report of a run."""
