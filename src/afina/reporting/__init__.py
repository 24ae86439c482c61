"""What a run found, for people: a page in HTML and the card of the model."""
