"""The HTTP API and the page of `afina serve`."""
