"""What in a text speaks for the predicted label, and what against it."""
