"""Training: from encoded examples to published weights, one optimizer step after the other."""
