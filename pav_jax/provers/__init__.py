"""Provers: the values of prefixes, whoever estimates them.

| file | what |
|---|---|
| `base` | what a prover is, what some can do besides, `PolicyValues` |
| `best_of_k`, `adaptive` | `BestOfK` of any prover; `AdaptiveK`, K chosen |
| `procedural`, `rollout_values` | `Procedural`, `ClosedForm`: exact values |
| `monte_carlo`, `importance` | `MonteCarlo`, `ImportanceSampling` |
| `verifier` | `Verifier`, `load`, `save` |
| `rollout_values` | `WithinLimit`, `WellFormed`: what is worth nothing |
| `public` | other people's reward models as provers; ours for others |
| `completions`, `budget`, `first_pits` | completions, as data are made of |
"""
