"""The command line: words in, exit statuses out."""
