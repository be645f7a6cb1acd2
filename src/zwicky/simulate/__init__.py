"""Parameters become `Cutouts` whose whole truth is known: populations, instruments, rendering, noise.

Nothing heavy is imported here. `zwicky.simulate.api` holds `simulate` and `simulate_store`.
"""
