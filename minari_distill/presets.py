"""The presets: what each replaces of the defaults in `config.py`."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # Plain students in the inner loop, wider ones to read the pairs.
    "default": {},
    # Minutes on two CPU cores, teacher included: its narrow expert asks for a sharper weight,
    # and for the unroll (docs/results.md).
    "quick": {
        "teacher_method": "filtered_bc",
        "teacher_steps": 5_000,
        "outer_steps": 600,
        "validate_every": 100,
        "q_power": 3.0,
        "student_widening": 1,
        "student_length": 1.0,
        "metric_share": 0.0,
        "meta_gradient": "unroll",
        "window": 30,
        "student_pool": 16,
        "pool_life": 0,
        "inner_eps": 1e-6,  # Adam's adjoint divides by √v̂ + ε
        "outer_lr_obs": 2e-2,
        "outer_batch": 2048,
    },
    # The recipe's students of infinite width, and no others: in minutes pairs that those read as well as the teacher
    # acts, and networks badly (docs/results.md).
    # Its teacher, learnt in a minute, is as good as Cal-QL's there.
    "infinite": {
        "teacher_method": "filtered_bc",
        "teacher_steps": 5_000,
        "infinite_width": True,
        "metric_share": 1.0,
        "student_pool": 0,
        "outer_steps": 4000,
    },
    # The paper's procedure (arXiv 2410.22728, section 5 and appendix), so that numbers compare.
    "paper": {
        "objective": "av_pbc",
        "teacher_method": "cal_ql",
        "initializer": "random",
        "student_widening": 1,
        "student_length": 1.0,
        "metric_share": 0.0,
        "student_init": "orthogonal",
        "inner_optimizer": "sgd",
        "inner_lr": 0.1,
        "inner_steps": 100,
        "window": 0,
        "student_pool": 0,
        "meta_gradient": "unroll",
        "outer_steps": 50_000,
        "outer_optimizer": "momentum",
        "outer_lr_obs": 0.1,
        "outer_lr_act": 0.1,
        "outer_schedule": "constant",
        "outer_clip": "norm",
        "outer_batch": 2560,
        "validate_every": 25,
        "q_scale": 0.02,
    },
}
