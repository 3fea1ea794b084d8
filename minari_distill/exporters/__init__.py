"""Synsets in the forms in which other codebases train; every one is for behavioural cloning only.

    $ minari-distill export me/hopper-medium-distilled-v0 --to d4rl --out hopper.hdf5
    Wrote 256 pairs for d4rl to hopper.hdf5
    For behavioural cloning only: rewards, terminations and next observations are placeholders.

One file a form. `arrays`, `pytorch` and `files` need nothing beyond what `minari_distill` itself needs; `d3rlpy`, `torchrl`,
`imitation`, `stable_baselines3`, `tianshou` and `rllib` import the codebase of that name, and say how to install it
where it is missing; `tanh_policy` and `rllib_module` end in a student's tanh where theirs do not. Nothing in
`minari_distill` imports this package until an export is asked for.

Observations are in the units of the source dataset, as everywhere. A student normalises them by

    x = (observation − obs_mean) / obs_std

with the statistics of the *source dataset*, which travel with every export in the form that the codebase takes. Most
codebases would otherwise compute statistics of their own from the 256 pairs, which is wrong: distilled observations are
spread otherwise than the observations that the policy will meet.
"""
