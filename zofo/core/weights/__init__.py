"""The weights that zeroth order sees: their canonical names (`leaves`) and the one place that moves them (`move`)."""
