"""A simulated log with a known truth: latent intents that drift, scenes that follow them, pages with known click probabilities.

`settings` says what can be chosen, `noise` gives keyed random numbers, `catalog` the items, `intent` the latent path, `walk` a day
of events, `slates` the pages shown on the way, `raw` and `log` the Spark frames. See docs/simulator.md for the formulas.
"""
