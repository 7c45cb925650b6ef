"""Taking a trained model to where there is no torch."""
