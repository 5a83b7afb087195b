"""Command line: one module per subcommand, each of which builds options and calls the public function.

Such a module has `add_parser(commands)`, which adds it to the subparsers of argparse, and `run(args)`, which
takes the parsed options and returns the exit code. Errors of the library pass through to `main`.
"""
