"""The weights that zeroth order sees: their canonical names (`leaves`) and the one place that moves them (`move`).

Where they do not fit in memory they are in a working file (`store`), read ahead (`fetch`), and `stored` makes leaves of them.
"""
