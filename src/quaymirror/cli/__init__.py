"""The command line: options are parsed, library functions called, results printed, and exit codes returned."""
