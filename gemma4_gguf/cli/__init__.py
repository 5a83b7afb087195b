"""The command line: one module per subcommand, each of which builds options and calls the public function."""
