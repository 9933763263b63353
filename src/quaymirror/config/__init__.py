"""The configuration file: which jobs there are, and exactly where in it a mistake is. No option is defined here."""
