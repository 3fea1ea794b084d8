"""Offline behaviour distillation for Minari datasets: a large dataset in, a few hundred pairs out.

>>> import minari_distill as md
>>> synset = md.distill("mujoco/hopper/medium-v0", n_syn=256)  # doctest: +SKIP
>>> policy = md.behavior_clone(synset)  # doctest: +SKIP
>>> print(md.evaluate(policy, synset))  # doctest: +SKIP
"""

__version__ = "0.1.0"

from minari_distill.config import DistillConfig, make_config
from minari_distill.distill import distill
from minari_distill.errors import MinariDistillError
from minari_distill.evaluate import Evaluation, Score, evaluate
from minari_distill.expand import expand
from minari_distill.gallery import gallery
from minari_distill.loading import load_synset
from minari_distill.policy import Policy, load_policy
from minari_distill.recipe import GENERAL_RECIPE, StudentRecipe
from minari_distill.students import behavior_clone
from minari_distill.synset import Synset
from minari_distill.teachers import Teacher, load_teacher, save_teacher
from minari_distill.transitions import Transitions, load_transitions

__all__ = [
    "GENERAL_RECIPE",
    "DistillConfig",
    "Evaluation",
    "MinariDistillError",
    "Policy",
    "Score",
    "StudentRecipe",
    "Synset",
    "Teacher",
    "Transitions",
    "behavior_clone",
    "distill",
    "evaluate",
    "expand",
    "gallery",
    "load_policy",
    "load_synset",
    "load_teacher",
    "load_transitions",
    "make_config",
    "save_teacher",
]
