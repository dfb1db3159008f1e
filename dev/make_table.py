"""Make `zofo/core/tables/normal16.f32`: 65,536 normal quantiles of unit variance, little-endian fp32.

    z_k = Phi^-1((k + 1/2) / 65536), scaled so that the mean of z_k^2 is 1.

The file in the repository is the truth (its SHA-256 is tested); this script says where it came from.
"""

import hashlib
from pathlib import Path

import numpy as np
from scipy.special import ndtri

lower = ndtri((np.arange(32768) + 0.5) / 65536)
z = np.concatenate([lower, -lower[::-1]])
table = (z / np.sqrt(np.mean(z**2))).astype("<f4").tobytes()
Path(__file__).parents[1].joinpath("zofo/core/tables/normal16.f32").write_bytes(table)
print(hashlib.sha256(table).hexdigest())
