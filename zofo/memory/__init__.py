"""Memory: what a run needs before it has run (`sizes`, `dry`), and what one took (`live`, `resident`)."""
