"""The ``thyme`` command: one module per subcommand, and the options that they share."""
