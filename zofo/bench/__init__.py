"""What `zofo bench` runs. Times are shared-machine times: compare them as ratios, measured interleaved."""
