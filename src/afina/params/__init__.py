"""Every parameter of every stage, one module a section, so that a stage depends on its own section alone."""
