"""Methods: each one file with `init` and `step` over a small frozen state; `table.py` lists them."""
