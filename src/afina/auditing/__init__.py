"""What is likely wrong with the labels themselves."""
